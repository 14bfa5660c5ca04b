"""Every command of the contract, on the smallest configuration: what it writes, finds, and refuses."""

import argparse
import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import talk2car_kd
from shared import checkpoint
from shared.errors import ConfigError
from talk2car_kd import pipeline, weights
from talk2car_kd.stages import distill, ground

TINY = Path(__file__).parent / "tiny.yaml"
PUBLIC = (
    "DistilledConvNeXtTiny", "DistilledConvNeXtTinyMultiScale", "Talk2CarModel", "TransformerGroundingHead",
    "ProjectionGroundingHead", "COCORegionTextDataset", "get_augmented_transform", "Talk2CarDataset",
    "DistillationLosses", "Talk2CarLoss", "train_epoch", "fine_tune_epoch", "evaluate_talk2car",
    "inference_and_visualize",
)  # fmt: skip
FLAGS = {
    "-h", "--help", "--stage", "--visualize", "--generate_predictions", "--config", "--set", "--run", "--checkpoint",
    "--validate", "--dry-run",
}  # fmt: skip
STAGES = ("all", "1", "2", "test", "teacher", "export", "ablate")


def command(work: Path, *args: str) -> int:
    folders = [f"data.{key}_dir={work / key}" for key in ("results", "cache", "embedded")]
    sets = [part for setting in ("training.device=cpu", *folders) for part in ("--set", setting)]
    return pipeline.main(["--config", str(TINY), *sets, *args])


def runs(work: Path) -> list[Path]:
    return sorted((work / "results").glob("*"), key=lambda path: path.stat().st_ctime_ns)


def stages_done(run: Path) -> set[str]:
    return {name for name, stage in json.loads((run / "run.json").read_text())["stages"].items() if stage["done"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A work folder after `--stage all`."""
    work, out = tmp_path_factory.mktemp("finished") / "work", io.StringIO()
    with contextlib.redirect_stdout(out):
        assert command(work, "--stage", "all", "--visualize", "--generate_predictions") == 0
    (work / "console.txt").write_text(out.getvalue())
    return work


@pytest.fixture
def work(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "work"))


# --- the contract's names


def test_the_contract_s_names_import_from_the_package():
    assert set(PUBLIC) <= set(dir(talk2car_kd))
    assert all(callable(getattr(talk2car_kd, name)) for name in PUBLIC)


def test_the_flags_are_these_and_no_others(monkeypatch):
    seen = set()
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, argv):
        seen.update(flag for action in self._actions for flag in action.option_strings)
        seen.update(choice for action in self._actions for choice in action.choices or ())
        return original(self, argv)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    request = pipeline.parse([])
    assert seen == FLAGS | set(STAGES)
    assert (request.stage, request.visualize, request.generate_predictions) == ("all", False, False)


@pytest.mark.parametrize("argv", [["--stage", "3"], ["--visualise"], ["--stage"], ["extra"]])
def test_bad_flags_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        pipeline.main(argv)
    assert end.value.code == 2
    assert "usage: main.py" in capsys.readouterr().err


# --- --stage all


def test_all_writes_what_the_contract_names(finished):
    (run,) = runs(finished)
    names = ("config.yaml", "log.txt", "run.json", "metrics.jsonl", "distilled_weights.pth", "talk2car_best.pth",
             "talk2car_last.pth", "predictions.json", "scores.json", "report.html")  # fmt: skip
    assert [name for name in names if not (run / name).is_file()] == []
    assert list(run.glob("visualizations/*/*"))
    assert list(run.glob("tensorboard/**/events*"))
    assert not list(run.rglob("*.tmp"))
    assert stages_done(run) == {"teacher", "1", "2", "test"}


def test_embedded_data_is_never_silent(finished):
    (run,) = runs(finished)
    assert json.loads((run / "run.json").read_text())["data"] == "embedded"
    mark = "embedded synthetic data: not a Talk2Car result"
    assert mark in (run / "report.html").read_text()
    assert json.loads((run / "scores.json").read_text())["mark"] == mark
    assert "EMBEDDED DATA" in (finished / "console.txt").read_text()


def test_predictions_have_the_official_form(finished):
    (run,) = runs(finished)
    predictions = json.loads((run / "predictions.json").read_text())
    (commands,) = finished.glob("embedded/*/talk2car/commands/test_commands.json")
    tokens = {row["command_token"] for row in json.loads(commands.read_text())["commands"]}
    assert predictions.keys() == tokens
    for x, y, w, h in predictions.values():
        assert min(x, y, w, h) >= 0
        assert x + w <= 1600.001
        assert y + h <= 900.001


def test_every_stage_logs_its_losses_raw_and_weighted(finished):
    (run,) = runs(finished)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {"teacher": {"clip"}, "stage1": {"clip", "sim", "cos"}, "stage2": {"l1", "giou", "score"}}
    for stage, terms in expected.items():
        row = next(row for row in rows if row["split"] == f"{stage}/train")
        assert terms | {f"weighted/{term}" for term in terms} | {"loss", "grad_norm"} <= row.keys()
    assert {"ap50", "average_iou"} <= next(row for row in rows if row["split"] == "stage2/val").keys()


def test_stage_1_s_weights_reach_stage_2(finished, monkeypatch):
    """At step 0 the encoder holds, tensor for tensor, what Stage 1 wrote."""
    (run,) = runs(finished)
    distilled = checkpoint.load(run / weights.DISTILLED)["model"]
    seen = {}

    def stop(ctx, model, sampler):
        seen.update({name: value.clone() for name, value in model.encoder.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(ground, "_loop", stop)
    assert command(finished, "--stage", "2", "--run", "peek") == 130
    shutil.rmtree(finished / "results" / "peek")
    assert seen.keys() == distilled.keys()
    assert all(torch.equal(seen[name], distilled[name]) for name in seen)
    changed = checkpoint.load(run / weights.LAST)["model"]
    assert any(not torch.equal(changed[f"encoder.{name}"], seen[name]) for name in seen)


# --- separate stages


def test_a_finished_run_is_not_repeated_but_tested_again_where_its_model_lies(work):
    (run,) = runs(work)
    before = (run / "talk2car_best.pth").read_bytes()
    for name in ("predictions.json", "report.html"):
        (run / name).unlink()
    shutil.rmtree(run / "visualizations")
    assert command(work, "--stage", "test", "--visualize", "--generate_predictions") == 0
    assert runs(work) == [run]
    assert (run / "predictions.json").is_file()
    assert (run / "report.html").is_file()
    assert list(run.glob("visualizations/test/*"))
    assert (run / "talk2car_best.pth").read_bytes() == before


def test_stage_2_after_all_finds_the_newest_weights_and_their_teacher(work, capsys):
    (first,) = runs(work)
    assert command(work, "--stage", "2") == 0
    (second,) = set(runs(work)) - {first}
    told = capsys.readouterr().out
    assert f"encoder from {first / 'distilled_weights.pth'}" in told
    assert f"teacher of {first.name} adopted" in told
    a, b = (checkpoint.load(run / "talk2car_last.pth") for run in (first, second))
    assert a["teacher"] == b["teacher"]
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])  # the same seed, the same end
    assert command(work, "--stage", "test", "--run", second.name) == 0
    assert (second / "scores.json").is_file()


def test_stages_one_by_one_share_a_run_and_equal_all(finished, tmp_path):
    (whole,) = runs(finished)
    shutil.copytree(finished / "embedded", tmp_path / "embedded")
    for stage in ("teacher", "1", "2"):
        assert command(tmp_path, "--stage", stage) == 0
    (run,) = runs(tmp_path)
    assert stages_done(run) == {"teacher", "1", "2"}
    for name in (weights.DISTILLED, weights.LAST):
        a, b = (checkpoint.load(folder / name)["model"] for folder in (whole, run))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_newest_is_by_the_recorded_time_whatever_the_files_say(work):
    (first,) = runs(work)
    second = Path(shutil.copytree(first, work / "results" / "older"))
    manifest = second / "distilled_weights.pth.json"
    record = json.loads(manifest.read_text())
    record["extra"]["created"] = "2020-01-01T00:00:00+00:00"
    manifest.write_text(json.dumps(record))
    (second / "distilled_weights.pth").touch()  # a later file time does not make it newer
    assert weights.newest(work / "results", weights.DISTILLED) == first / "distilled_weights.pth"


@pytest.mark.fault(8)
def test_a_run_with_a_damaged_manifest_is_named_and_passed_over(work, caplog):
    (first,) = runs(work)
    second = Path(shutil.copytree(first, work / "results" / "damaged"))
    (second / "distilled_weights.pth.json").write_text("{")
    with caplog.at_level("WARNING"):
        assert weights.newest(work / "results", weights.DISTILLED) == first / "distilled_weights.pth"
    assert "passed over" in caplog.text and str(second) in caplog.text


def test_a_batch_that_the_processes_cannot_share_is_refused():
    context = SimpleNamespace(
        config=SimpleNamespace(stage1=SimpleNamespace(batch_size=10)), world=SimpleNamespace(size=4)
    )
    with pytest.raises(ConfigError, match=r"batch_size 10 .* does not divide by 4: .* take 8"):
        distill._training_data(context, None, None)


@pytest.mark.fault(10)
def test_weights_of_another_backbone_or_map_or_teacher_are_refused(work, capsys):
    assert command(work, "--stage", "2", "--set", "student.map_dim=32") == 2
    assert "student.map_dim = 16, this run has 32" in capsys.readouterr().err
    (first,) = [run for run in runs(work) if (run / "distilled_weights.pth").exists()]
    assert command(work, "--stage", "teacher", "--run", "b", "--set", "training.seed=5") == 0
    given = str(first / "distilled_weights.pth")
    assert command(work, "--stage", "2", "--run", "b", "--set", "training.seed=5", "--checkpoint", given) == 2
    assert "made with teacher.sha256" in capsys.readouterr().err


def test_a_model_from_elsewhere_is_tested_in_a_run_of_its_own(work, tmp_path):
    (first,) = runs(work)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("talk2car_best.pth", "talk2car_best.pth.json"):
        shutil.copy(first / name, elsewhere)
    shutil.copytree(first / "teacher", elsewhere / "teacher")
    before = (first / "scores.json").stat().st_mtime_ns
    assert command(work, "--stage", "test", "--checkpoint", str(elsewhere / "talk2car_best.pth")) == 0
    assert (first / "scores.json").stat().st_mtime_ns == before
    (other,) = set(runs(work)) - {first}
    ours, theirs = (json.loads((run / "scores.json").read_text()) for run in (first, other))
    assert ours["val"] == theirs["val"]


# --- refusals


def test_test_without_a_model_says_so_and_makes_no_folder(tmp_path, capsys):
    assert command(tmp_path, "--stage", "test") == 2
    assert "no talk2car_best.pth in any run" in capsys.readouterr().err
    assert command(tmp_path, "--stage", "test", "--run", "x") == 2
    assert "x/talk2car_best.pth does not exist" in capsys.readouterr().err
    assert runs(tmp_path) == []


def test_a_model_of_another_configuration_must_be_named(work, capsys):
    assert command(work, "--stage", "test", "--set", "training.seed=9") == 2
    told = capsys.readouterr().err
    assert "with this configuration" in told
    assert str(runs(work)[0] / "talk2car_best.pth") in told
    assert len(runs(work)) == 1


@pytest.mark.fault(19)
def test_an_unknown_key_names_the_nearest(tmp_path, capsys):
    assert command(tmp_path, "--dry-run", "--set", "stage2.epoch=3") == 2
    told = capsys.readouterr().err
    assert "stage2.epoch" in told
    assert "epochs" in told
    assert "--set" in told
    assert not runs(tmp_path)


@pytest.mark.parametrize("root", ["coco_root", "talk2car_root"])
def test_one_root_alone_is_refused(tmp_path, capsys, root):
    assert command(tmp_path, "--stage", "all", "--set", f"data.{root}={tmp_path}") == 2
    assert "set both for real data, or neither" in capsys.readouterr().err


@pytest.mark.fault(15)
@pytest.mark.parametrize("flag", ["--dry-run", "--validate", "--stage=1"])
def test_roots_that_are_missing_are_refused_and_never_replaced(tmp_path, capsys, flag):
    roots = [f"data.{root}_root={tmp_path / 'nowhere'}" for root in ("coco", "talk2car")]
    overrides = ["world=null", "teacher.train=null", "teacher.pretrained=null", *roots]
    assert command(tmp_path, flag, *[part for item in overrides for part in ("--set", item)]) == 2
    out, err = capsys.readouterr()
    assert "nowhere" in err
    assert "EMBEDDED" not in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(15)
def test_validate_of_the_written_world_finds_nothing_and_of_half_of_it_says_what(finished, tmp_path, capsys):
    (world,) = (finished / "embedded").glob("world-*")
    half = Path(shutil.copytree(world, tmp_path / "half"))

    def validate(folder: Path) -> int:
        roots = [f"data.{root}_root={folder / root}" for root in ("coco", "talk2car")]
        return pipeline.main(["--validate", "--set", roots[0], "--set", roots[1]])

    assert validate(world) == 0
    shutil.rmtree(half / "talk2car" / "images")
    shutil.rmtree(half / "coco" / "train2017")
    assert validate(half) == 2
    told = capsys.readouterr().err
    assert "talk2car" in told
    assert "train2017" in told


# --- resolving


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    assert command(tmp_path, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "teacher -> 1 -> 2 -> test" in told
    assert "embedded world" in told
    assert list(tmp_path.iterdir()) == []


def test_later_files_win_and_set_wins_over_all(tmp_path, capsys):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("stage2: {epochs: 3, lr: 1e-4}\nstage1: {epochs: 3}\n")
    b.write_text("stage2: {epochs: 4, lr: 2e-4}\n")
    request = pipeline.parse(["--config", str(a), "--config", str(b), "--set", "stage2.epochs=5"])
    config = pipeline.resolve(request)
    assert (config.stage2.epochs, config.stage2.lr, config.stage1.epochs) == (5, 2e-4, 3)
    swapped = pipeline.resolve(pipeline.parse(["--config", str(b), "--config", str(a)]))
    assert (swapped.stage2.epochs, swapped.stage2.lr) == (3, 1e-4)


def test_an_embedded_world_named_as_data_keeps_its_mark(finished, tmp_path):
    def resolved(root, *more):
        roots = [f"data.coco_root={root / 'coco'}", f"data.talk2car_root={root / 'talk2car'}", *more]
        return pipeline.resolve(pipeline.parse([part for one in roots for part in ("--set", one)]))

    (mark_file,) = finished.rglob("world.json")
    config = resolved(mark_file.parent)
    assert config.data.mark == "embedded synthetic data: not a Talk2Car result" and not config.embedded
    assert pipeline.is_synthetic(config) and pipeline._data_record(config)["mark"] == config.data.mark
    assert resolved(mark_file.parent, "data.mark=mine").data.mark == "mine"
    real = resolved(tmp_path)
    assert real.data.mark == "" and not pipeline.is_synthetic(real) and "mark" not in pipeline._data_record(real)


def test_the_resolved_configuration_is_kept_with_the_run(finished):
    (run,) = runs(finished)
    text = (run / "config.yaml").read_text()
    assert "input_hw: [64, 96]" in text or "- 64\n" in text
    record = json.loads((run / "run.json").read_text())
    assert record["config"]["stage2"]["input_hw"] == [64, 96]
    assert record["seed"] == 0
