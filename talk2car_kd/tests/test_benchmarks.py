"""The benchmarks run (quick forms), count right, and write what the record promises. No times are judged."""

import json
from pathlib import Path

import pytest
import torch

from shared import benchmark
from shared.errors import StorageError
from shared.run import World
from shared.testing.benchmarks import ScalingLaws, load
from talk2car_kd.config import PACKAGE_ROOT
from talk2car_kd.latency import Tower, gmacs

BENCHMARKS = PACKAGE_ROOT / "benchmarks"
PROMISED = {"benchmark", "date_utc", "commit", "command", "hardware", "versions", "results"}


@pytest.fixture(scope="module")
def latency():
    return load(BENCHMARKS, "latency")


@pytest.fixture(scope="module")
def stage1_step():
    return load(BENCHMARKS, "stage1_step")


def test_a_record_says_where_when_and_of_what(tmp_path):
    found = benchmark.record("x", {"ms": [1.0]})
    assert set(found) == PROMISED and found["results"] == {"ms": [1.0]}
    assert (
        found["hardware"]["threads"] == torch.get_num_threads()
        and found["versions"]["torch"] == torch.__version__.split("+")[0]
    )
    path = benchmark.write(tmp_path / "new" / "x.json", found)
    assert json.loads(path.read_text()) == json.loads(json.dumps(found))


def test_a_record_is_json_and_goes_where_it_can(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        benchmark.write(tmp_path / "x.json", {"ms": float("nan")})
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        benchmark.write(tmp_path / "file" / "x.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ratios_are_baseline_over_ours_round_by_round():
    assert benchmark.median_ratio([2, 40, 9], [1, 10, 3]) == 3.0
    with pytest.raises(ValueError, match="rounds"):
        benchmark.median_ratio([1.0], [])


def test_gmacs_of_a_convolution_and_of_attention_by_hand():
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert gmacs(Tower("c", conv, conv, 10, 12)) == pytest.approx(10 * 12 * 8 * 3 * 9 / 1e9)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()

    def call(pixels):
        x = pixels.flatten(2).transpose(1, 2)[..., :1].expand(1, -1, 8)
        return attention(x, x, x, need_weights=False)

    tokens = 4 * 5
    by_hand = tokens * 8 * 8 * 4 + 2 * tokens * tokens * 8  # four projections, then q k' and its product with v
    assert gmacs(Tower("a", attention, call, 4, 5)) == pytest.approx(by_hand / 1e9)


def test_latency_quick(latency, tmp_path, capsys):
    out = tmp_path / "latency.json"
    assert latency.main(["--quick", "--threads", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found) == PROMISED and found["hardware"]["threads"] == 1
    small, large = found["results"]["towers"]
    assert small["parameters"] == large["parameters"] and large["gmacs"] == pytest.approx(
        small["gmacs"] * 2.25, rel=0.02
    )
    assert found["results"]["latency_ratio"][latency.STUDENT] == 1.0
    (row,) = found["results"]["ratios"]
    assert (row["ours"], row["baseline"]) == (small["latency_ms"], large["latency_ms"])
    assert row["ratio"] == found["results"]["latency_ratio"]["quick baseline"] and row["target"] == "≥ 10"
    assert "x student" in capsys.readouterr().out


def test_a_median_of_few_is_refused(latency):
    with pytest.raises(SystemExit):
        latency.main(["--repeats", "9"])


def test_the_real_student_tower_is_the_default_recipe(latency):
    tower = latency.student_tower("s", [latency.DEFAULT], 512, None)
    assert (tower.height, tower.width) == (448, 800)
    assert tower.call(torch.zeros(1, 3, 64, 64)).shape == (1, 256, 4, 4)
    assert type(tower.module).__name__ == "DistilledConvNeXtTinyMultiScale"


def test_stage1_step_quick(stage1_step, tmp_path, capsys):
    out = tmp_path / "stage1.json"
    assert stage1_step.main(["--quick", "--threads", "1", "--out", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    found = results["students"]["embedded preset"]
    assert [(row["ratio"], row["target"]) for row in results["ratios"]] == [(found["ratio"], "≥ 1.4")]
    assert results["ratios"][0]["baseline"] == found["ms"]["online"][0]
    assert found["backbone"] == "test_convnext" and found["target"] == 1.4 and found["ratio"] > 0
    assert len(found["ms"]["cached"]) == len(found["ms"]["online"]) == 1
    assert "quick" in capsys.readouterr().out


def test_both_ways_learn_from_the_same_targets_and_really_step(stage1_step):
    teacher = stage1_step.tiny_teacher(torch.device("cpu"))
    batch = stage1_step.random_batch(4, 32, teacher)
    online = stage1_step.OnlineTargets(teacher)(batch)
    table = teacher.encode_images(batch["teacher_image"])[None].half()
    cached = stage1_step.CachedTargets(table, torch.device("cpu"))(batch)
    torch.testing.assert_close(cached, online, rtol=0, atol=2e-3)  # the table is kept in half precision
    config = stage1_step.load_config(stage1_step.Config, stage1_step.PRESETS["embedded preset"])
    student = stage1_step.build_student(config.student, teacher.embed_dim)
    criterion = stage1_step.DistillationLosses(config.stage1.loss.resolved(teacher.embed_dim))
    before = [parameter.clone() for parameter in student.parameters()]
    loop = stage1_step.OneBatch(batch, student, criterion, config, World())
    text_emb = teacher.encode_texts(list(stage1_step.TEXTS))
    stage1_step.train_epoch(student, None, lambda _: cached, text_emb, teacher.scale, criterion, loop)
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


@pytest.mark.real
def test_region_loader_quick_writes_the_same_kind_of_record(real_samples, tmp_path):
    loader = load(BENCHMARKS, "region_loader")
    out = tmp_path / "region_loader.json"
    assert loader.main(["--quick", "--coco", str(real_samples / "coco"), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert set(found) == PROMISED and found["results"]["regions"] == 69  # every tenth of 682
    rows = [(row["ratio"], row["target"]) for row in found["results"]["ratios"]]
    assert rows == [(found["results"]["plain"]["ratio"], "≥ 4"), (found["results"]["augmented"]["ratio"], "≥ 2.5")]


class TestScaling(ScalingLaws):
    folder, growths = BENCHMARKS, 3


def test_quick_runs_leave_the_committed_results_alone(latency, stage1_step):
    results = PACKAGE_ROOT / "benchmarks" / "results"
    before = {path: path.stat().st_mtime_ns for path in results.glob("*")} if results.is_dir() else {}
    latency.main(["--quick"])
    after = {path: path.stat().st_mtime_ns for path in results.glob("*")} if results.is_dir() else {}
    assert before == after and stage1_step.OUT.parent == latency.OUT.parent == Path(results)
