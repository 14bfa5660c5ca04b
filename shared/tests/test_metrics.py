"""Metrics: means that are right on several processes, the log and its rewind, recall, intervals."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shared.errors import DataError, StorageError
from shared.metrics import (
    MetricsLog,
    RunningMeans,
    bootstrap_interval,
    paired_difference,
    read_records,
    recall_at_k,
    recall_chance,
)

# --- running means ---


def test_mean_of_unequal_batches_is_the_mean_of_samples():
    samples = torch.arange(10, dtype=torch.float64).square()
    means = RunningMeans()
    for part in samples.split([1, 4, 5]):
        means.update({"loss": part.mean(), "other": 2.0}, len(part))
    assert means.compute() == {"loss": samples.mean().item(), "other": 2.0}


def test_python_numbers_keep_double_precision():
    means = RunningMeans()
    means.update({"x": 0.1}, 1)
    assert means.compute()["x"] == 0.1


def test_small_terms_are_not_lost_beside_large_sums():
    means = RunningMeans()
    means.update({"x": torch.tensor(1e8)}, 1)
    for _ in range(100):
        means.update({"x": torch.tensor(1.0)}, 1)
    assert means.compute()["x"] == (1e8 + 100) / 101


def test_each_name_has_its_own_count():
    means = RunningMeans()
    means.update({"a": 1.0}, 3)
    means.update({"a": 5.0, "b": 7.0}, 1)
    assert means.compute() == {"a": 2.0, "b": 7.0}


def test_empty_batches_count_nothing_and_no_graph_is_kept():
    means = RunningMeans()
    assert means.compute() == {}
    means.update({"x": math.nan}, 0)
    value = torch.ones((), requires_grad=True) * 2
    means.update({"x": value}, 2)
    assert means.compute() == {"x": 2.0}
    assert not means._sums["x"].requires_grad


def test_bad_updates_are_refused():
    with pytest.raises(ValueError, match="count -1"):
        RunningMeans().update({"x": 1.0}, -1)
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        RunningMeans().update({"x": torch.zeros(3)}, 3)


def test_state_continues_bit_for_bit():
    values = torch.rand(9).tolist()
    whole, first, second = RunningMeans(), RunningMeans(), RunningMeans()
    for n, value in enumerate(values):
        whole.update({"x": value}, n + 1)
        (first if n < 4 else second).update({"x": value}, n + 1)
        if n == 3:
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.compute() == whole.compute()


def test_state_counts_once_over_ranks():
    means = RunningMeans()
    means.update({"x": 2.0}, 3)
    state = means.state_dict()
    for rank, expected in ((0, {"x": 2.0}), (1, {})):
        means.load_state_dict(state, SimpleNamespace(rank=rank))
        assert means.compute() == expected


TWO_PROCESSES = """
import json, sys, torch, torch.distributed as dist
from shared.metrics import RunningMeans
from shared.run import World

torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
world = World(rank, 2)
for samples, batch in json.loads(sys.argv[3]):
    means = RunningMeans()
    mine = torch.arange(samples, dtype=torch.float64)[rank::2]
    for part in mine.split(batch):
        means.update({"square": part.square().mean(), "half": part.mean() / 2}, len(part))
        if rank == 1:
            means.update({"only_on_rank_1": 3.0}, len(part))
    print(json.dumps([means.compute(world), means.state_dict(world)["counts"]]))
"""


def test_two_processes_equal_one_when_sizes_do_not_divide(tmp_path):
    cases = [(8, 2), (7, 2), (13, 4), (101, 8), (1, 4)]  # the last leaves rank 1 without samples
    commands = [
        [sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path / "store"), json.dumps(cases)] for rank in (0, 1)
    ]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(c, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options) for c in commands]
    for out, err in [process.communicate(timeout=60) for process in running]:
        results = [json.loads(line) for line in out.splitlines() if line.startswith("[{")]
        assert len(results) == len(cases), err
        for (samples, _), (means, counts) in zip(cases, results, strict=True):
            every = torch.arange(samples, dtype=torch.float64)
            assert means["square"] == pytest.approx(every.square().mean().item(), rel=1e-14)
            assert means["half"] == pytest.approx(every.mean().item() / 2, rel=1e-14)
            assert means.get("only_on_rank_1") == (3.0 if samples > 1 else None)
            assert counts["square"] == samples


# --- the log ---


@pytest.fixture
def log(tmp_path):
    with_file = MetricsLog(tmp_path, tensorboard=False)
    yield with_file
    with_file.close()


def write_steps(log, split, steps):
    for step in steps:
        log.log(step, {"loss": 1 / step}, split=split, time={"seconds": 0.5})


def test_record_form(log):
    log.log(3, {"loss": torch.tensor(0.5), "n": 4, "iou": np.float32(0.25)}, split="train", time={"samples_per_s": 9.5})
    assert log.path.read_text() == (
        '{"step": 3, "split": "train", "loss": 0.5, "n": 4, "iou": 0.25, "time": {"samples_per_s": 9.5}}\n'
    )


def test_non_finite_is_valid_json_and_reads_back(log):
    log.log(1, {"a": math.nan, "b": math.inf, "c": torch.tensor(-math.inf)}, split="nan", time={"d": math.inf})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    record = json.loads(log.path.read_text(), parse_constant=refuse)
    assert (record["a"], record["b"], record["c"], record["time"]["d"]) == ("nan", "inf", "-inf", "inf")
    (back,) = read_records(log.path)
    assert math.isnan(back["a"]) and back["c"] == -math.inf and back["time"]["d"] == math.inf and back["split"] == "nan"


@pytest.mark.parametrize("values", [{"step": 1.0}, {"time": 1.0}, {"x": "word"}, {"x": torch.zeros(2)}, {"x": None}])
def test_bad_values_are_refused_before_anything_is_written(log, values):
    with pytest.raises(ValueError):
        log.log(1, {"good": 1.0, **values}, split="train")
    assert not log.path.exists()


def test_rewind_drops_later_records_and_keeps_the_rest_byte_for_byte(log):
    write_steps(log, "stage1/train", [1, 2, 3, 4])
    kept = log.path.read_bytes().splitlines(keepends=True)[:2]
    write_steps(log, "stage2/train", [3, 5])
    kept += log.path.read_bytes().splitlines(keepends=True)[4:]
    log.rewind("stage1/", 2)
    assert log.path.read_bytes() == b"".join(kept)
    log.rewind(None, 3)
    assert [(r["split"], r["step"]) for r in read_records(log.path)] == [
        ("stage1/train", 1), ("stage1/train", 2), ("stage2/train", 3),
    ]  # fmt: skip
    log.rewind("stage1")
    assert [r["split"] for r in read_records(log.path)] == ["stage2/train"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_goes(tmp_path, log, cut, caplog):
    write_steps(log, "train", [1, 2, 3])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-cut])
    assert [r["step"] for r in read_records(log.path)] == ([1, 2, 3] if cut == 1 else [1, 2])
    again = MetricsLog(tmp_path, tensorboard=False)  # a torn line would otherwise swallow the next record
    again.rewind("train", 2)
    write_steps(again, "train", [3])
    assert log.path.read_bytes() == whole
    assert ("cut short" in caplog.text) == (cut > 1)


def test_the_record_after_a_torn_line_is_whole(tmp_path, log):
    write_steps(log, "train", [1, 2])
    log.path.write_bytes(log.path.read_bytes()[:-10])
    write_steps(MetricsLog(tmp_path, tensorboard=False), "train", [2, 3])
    assert [r["step"] for r in read_records(log.path)] == [1, 2, 3]


def test_resuming_gives_the_bytes_of_the_uninterrupted_run(tmp_path, log):
    write_steps(log, "train", range(1, 9))
    folder = tmp_path / "cut"
    folder.mkdir()
    cut = MetricsLog(folder, tensorboard=False)
    write_steps(cut, "train", range(1, 7))
    resumed = MetricsLog(folder, tensorboard=False)
    resumed.rewind("train", 4)
    write_steps(resumed, "train", range(5, 9))
    assert resumed.path.read_bytes() == log.path.read_bytes()


def test_truncate_to_a_position_is_exact_where_steps_repeat(log):
    assert log.position() == 0
    write_steps(log, "train", [1, 2])
    log.log(2, {"ap": 0.5}, split="val")
    position, before = log.position(), log.path.read_bytes()
    log.log(2, {"ap": 0.5}, split="val")
    write_steps(log, "train", [3])
    log.truncate(position)
    assert log.path.read_bytes() == before and log.position() == position
    log.truncate(0)
    assert log.path.read_bytes() == b""


def test_a_broken_line_inside_is_an_error_that_names_it(log):
    write_steps(log, "train", [1, 2, 3])
    lines = log.path.read_text().splitlines()
    log.path.write_text("\n".join([lines[0], lines[1][:-9], lines[2], ""]))
    for action in (lambda: log.rewind(None, 1), lambda: read_records(log.path)):
        with pytest.raises(DataError, match=r"metrics\.jsonl line 2 is broken"):
            action()


def test_missing_folder_and_file_are_clear_errors(tmp_path):
    with pytest.raises(StorageError, match="create it first"):
        MetricsLog(tmp_path / "absent")
    with pytest.raises(DataError, match="has the run logged anything"):
        read_records(tmp_path / "metrics.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_named(log):
    log.path.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"metrics\.jsonl.*bytes"):
        write_steps(log, "train", [1])


def test_tensorboard_hides_what_a_rewind_forgot(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ([1, 2, 3, 4], [3]):
        log = MetricsLog(tmp_path)
        log.rewind("stage1/train", 2)
        write_steps(log, "stage1/train", steps)
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "stage1-train"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]
    assert events.Scalars("loss")[1].value == 0.5
    assert "time/seconds" in events.Tags()["scalars"]


class FakeWandb:
    """Stands for the wandb module and its run."""

    def __init__(self):
        self.rows, self.axes, self.finished = [], [], False

    def init(self, **options):
        self.options = options
        return self

    def define_metric(self, name, step_metric):
        self.axes.append((name, step_metric))

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished = True


def test_wandb_is_offline_and_each_split_has_its_own_steps(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = MetricsLog(tmp_path, wandb=True, tensorboard=False)
    write_steps(log, "stage1/train", [1, 2])
    write_steps(log, "stage2/train", [1])
    log.close()
    assert fake.options["mode"] == "offline" and fake.options["dir"] == str(tmp_path) and fake.finished
    assert fake.axes == [(f"{s}/*", f"{s}/step") for s in ("stage1/train", "stage2/train")]
    assert fake.rows[1] == {"stage1/train/loss": 0.5, "stage1/train/time/seconds": 0.5, "stage1/train/step": 2}


def test_wandb_missing_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        MetricsLog(tmp_path, wandb=True)


# --- recall ---


def test_recall_hand_values():
    scores = torch.tensor([[0.9, 0.5, 0.1, 0.3], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    positives = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)  # ranks 1, 3, 3
    assert recall_at_k(scores, positives, [1, 2, 3, 10]) == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1.0, 10: 1.0})


def test_recall_equals_topk_without_ties_and_is_monotone():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 90, generator=generator)
    positives = torch.rand(40, 90, generator=generator) < 0.05
    positives[:, 0] |= ~positives.any(1)
    ks = [1, 5, 10, 90]
    recalls = recall_at_k(scores, positives, ks)
    for k in ks:
        top = scores.topk(k, dim=1).indices
        assert recalls[k] == pytest.approx(positives.gather(1, top).any(1).double().mean().item())
    assert sorted(recalls.values()) == list(recalls.values()) and recalls[90] == 1


def test_recall_does_not_depend_on_the_gallery_order():
    scores = torch.randn(5, 30, generator=torch.Generator().manual_seed(1)).round()  # many ties
    positives = torch.eye(30, dtype=torch.bool)[:5]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    assert recall_at_k(scores, positives, [1, 5]) == recall_at_k(scores[:, order], positives[:, order], [1, 5])


def test_equal_scores_are_no_luck():
    assert recall_at_k(torch.zeros(3, 8), torch.ones(3, 8).tril().bool(), [1, 5]) == {1: 0.0, 5: 0.0}


def test_recall_refuses_nonsense():
    scores, positives = torch.rand(2, 3), torch.tensor([[True, False, False], [False, False, False]])
    with pytest.raises(ValueError, match=r"1 queries have no positive image \(first rows \[1\]\)"):
        recall_at_k(scores, positives, [1])
    positives[1, 1] = True
    for bad_scores, bad_positives, ks in (
        (scores[:, :2], positives, [1]), (scores[:0], positives[:0], [1]), (scores * math.nan, positives, [1]),
        (scores, positives.float(), [1]), (scores, positives, [0]),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            recall_at_k(bad_scores, bad_positives, ks)


@pytest.mark.parametrize(
    ("gallery", "positives", "k", "percent"),
    [(160, 1, 1, 0.625), (160, 1, 10, 6.25), (160, 10, 5, 27.9), (160, 10, 10, 48.6)],
)
def test_chance_values(gallery, positives, k, percent):
    assert 100 * recall_chance(gallery, positives, k) == pytest.approx(percent, abs=0.05)


def test_chance_agrees_with_random_scores():
    generator = torch.Generator().manual_seed(3)
    positives = torch.arange(30).expand(4000, 30) < 4
    measured = recall_at_k(torch.rand(4000, 30, generator=generator), positives, [5])[5]
    assert measured == pytest.approx(recall_chance(30, 4, 5), abs=0.03)


def test_chance_edges():
    assert recall_chance(10, 3, 99) == 1 and recall_chance(10, 10, 1) == 1
    assert recall_chance(50_000, 2, 1000) == pytest.approx(1 - (49 / 50) ** 2, rel=1e-3)
    for arguments in ((10, 0, 1), (10, 11, 1), (10, 1, 0)):
        with pytest.raises(ValueError):
            recall_chance(*arguments)


# --- intervals ---


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(3.0, 1.0, size=60), samples=300, seed=trial, level=0.9)
        covered += low <= 3.0 <= high
    assert 0.82 <= covered / 200 <= 0.96


def test_groups_are_drawn_together():
    """Ten scenes of fifty equal rows carry the information of ten samples, not five hundred."""
    scenes = np.random.default_rng(1).normal(size=10)
    groups = np.repeat([f"scene-{n}" for n in range(10)], 50)
    width = np.diff(bootstrap_interval(np.repeat(scenes, 50), groups))
    assert width == pytest.approx(np.diff(bootstrap_interval(scenes)), rel=0.1)
    assert width > 4 * np.diff(bootstrap_interval(np.repeat(scenes, 50)))


def test_group_order_and_names_do_not_matter_and_sizes_may_differ():
    values = np.arange(7.0)
    groups = np.array([0, 1, 1, 2, 2, 2, 2])
    expected = bootstrap_interval(values, groups)
    order = np.array([3, 0, 4, 1, 5, 2, 6])
    shuffled = bootstrap_interval(values[order], groups[order])
    assert shuffled == pytest.approx(expected)
    total_rows = []
    bootstrap_interval(
        values, groups, statistic=lambda rows: total_rows.append(sorted(rows.tolist())) or 0.0, samples=50
    )
    assert {len(rows) for rows in total_rows} <= {3, 4, 5, 6, 7, 8, 9, 10, 12} and len({len(r) for r in total_rows}) > 2
    for rows in total_rows:
        assert rows.count(1.0) == rows.count(2.0), "rows of a group come together"


def test_interval_is_seeded_and_takes_other_statistics():
    values = np.random.default_rng(2).normal(size=(40, 3))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)
    low, high = bootstrap_interval(values, statistic=lambda rows: float(np.median(rows[:, 0])))
    assert low <= np.median(values[:, 0]) <= high


def test_constant_values_have_no_width_and_one_group_no_interval():
    assert bootstrap_interval(np.full(9, 0.5)) == (0.5, 0.5)
    assert all(math.isnan(bound) for bound in bootstrap_interval(np.arange(5.0), ["only"] * 5))
    for values, groups, level in (([], None, 0.9), ([1.0, 2.0], ["a"], 0.9), ([1.0, 2.0], None, 1.0)):
        with pytest.raises(ValueError):
            bootstrap_interval(values, groups, level=level)


def paired_case(seeds, effect, noise=0.0):
    rng = np.random.default_rng(4)
    control = rng.random((seeds, 200))
    return control + effect + noise * rng.normal(size=control.shape), control, np.repeat(np.arange(40), 5)


def test_paired_difference_removes_what_both_share():
    treated, control, scenes = paired_case(5, 0.01, noise=0.005)
    result = paired_difference(treated, control, scenes)
    assert result.low < 0.01 < result.high and result.high - result.low < 0.002
    assert result.mean == pytest.approx(np.mean(result.per_seed)) and len(result.per_seed) == 5
    assert result.headline and str(result).count("+0.0") == 3 + 5


def test_headline_needs_five_seeds_one_sign_and_the_interval():
    assert not paired_difference(*paired_case(3, 0.01, noise=0.005)).headline
    assert paired_difference(*paired_case(5, -0.01, noise=0.005)).headline
    assert not paired_difference(*paired_case(5, 0.0, noise=0.5)).headline
    treated, control, scenes = paired_case(5, 0.05)
    treated[0] -= 0.06
    mixed = paired_difference(treated, control, scenes)
    assert mixed.low > 0 and not mixed.one_sign and not mixed.headline
    with pytest.raises(ValueError, match="paired"):
        paired_difference(treated[:4], control)
