"""The three trainings under the faults of `shared.faults`; the whole suites are slow, a few cases always run."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from bat_samples import TEACHER, arguments

from batvision_kd import command as command_module
from batvision_kd.training import experiment
from shared.faults import FaultSuite, TrainingCommand, start, start_world, stop_points
from shared.injections import differences, metrics_of, outcome

GOLDEN = Path(__file__).parent / "golden_bat.json"
SCRIPTS = Path(__file__).parents[1]


def training(kind: str, *more: str, **fields) -> TrainingCommand:
    return TrainingCommand(
        name=kind,
        main=lambda argv: command_module.main(kind, argv),
        argv=lambda work: arguments(work, "--experiment_name", "t", *more),
        script=SCRIPTS / command_module.PROGRAMS[kind],
        run_folder=lambda work: work / "logs" / "t",
        stage=kind,
        weights="../../checkpoints/t/epoch_0002.pth",
        evaluation=(experiment, "validate"),
        preparation={"data": (experiment, "open_data"), "teacher": (experiment, "choose_micro_batch")},
        workers=lambda count: ["--num_workers", str(count)],
        another_seed=["--seed", "1", "--experiment_name", "other"],
        **fields,
    )


RGB = training("rgb", "--ema", "0.9")
AUDIO = training("audio")
TAUGHT = training(
    "distillation",
    "--micro_batch", "1",
    "--set", "distillation.adaptive={anneal: cosine, balance: true}",
    accumulate=2,
    teacher=lambda work: work / "checkpoints" / TEACHER / "best_model.pth",
)  # fmt: skip
TEACHES = replace(RGB, argv=lambda work: arguments(work, "--experiment_name", TEACHER))


def finished(command: TrainingCommand, work: Path, *more: str) -> Path:
    ended = start(command, work, more=more).wait()
    assert ended.code == 0, ended.output[-3000:]
    return work


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A work folder with the embedded world and a teacher."""
    work = tmp_path_factory.mktemp("taught") / "work"
    (work / "logs/t").mkdir(parents=True)
    (work / "logs/t/run.lock").touch()  # the suite looks into it before the first run has made its folder
    return finished(TEACHES, work)


@pytest.mark.parametrize("command", [RGB, AUDIO, TAUGHT], ids=lambda command: command.name)
def test_the_first_20_steps_are_those_of_the_golden_curve(command, taught):
    """To refresh after a change that is meant to move it: delete its entry, run twice, and look at the difference."""
    finished(command, taught, "--nb_epochs", "7", "--experiment_name", f"golden_{command.name}")
    records = metrics_of(taught / "logs" / f"golden_{command.name}")
    curve = [row["loss"] for row in records if row["split"] == f"{command.stage}/train"][:20]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if command.name not in golden:
        GOLDEN.write_text(json.dumps({**golden, command.name: curve}, indent=1) + "\n")
        pytest.fail(f"{GOLDEN.name} had no curve of {command.name}: written, check it and commit it")
    assert len(curve) == 20
    assert curve == pytest.approx(golden[command.name], rel=1e-3)


@pytest.fixture(scope="module")
def uncut(taught, tmp_path_factory) -> dict:
    work = finished(TAUGHT, Path(shutil.copytree(taught, tmp_path_factory.mktemp("uncut") / "work")))
    return outcome(TAUGHT.run_folder(work), TAUGHT.stage, TAUGHT.weights)


@pytest.mark.parametrize("point", ["inside accumulation", "during evaluation", "after the last step"])
def test_a_taught_student_killed_and_continued_ends_as_if_uncut(point, taught, uncut, tmp_path):
    work = Path(shutil.copytree(taught, tmp_path / "work"))
    assert start(TAUGHT, work, stop_points(TAUGHT, 6)[point]).wait().code == -signal.SIGKILL
    finished(TAUGHT, work)
    assert differences(uncut, outcome(TAUGHT.run_folder(work), TAUGHT.stage, TAUGHT.weights)) == []


def test_two_processes_train_together_and_judge_as_one(taught, tmp_path):
    """3 validation images do not divide by two; the last epoch's state, judged again alone, has the same scores."""
    work = Path(shutil.copytree(taught, tmp_path / "work"))
    for ended in start_world(replace(AUDIO, argv=lambda work: [*AUDIO.argv(work), "--nb_epochs", "1"]), work):
        assert ended.code == 0, ended.output[-3000:]
    (scores,) = [row for row in metrics_of(work / "logs" / "t") if row["split"] == "audio/val"]
    assert scores["counted"] == 3
    assert judged_alone(work) == pytest.approx(scores["rmse"], rel=1e-5)


def judged_alone(work: Path) -> float:
    from batvision_kd.checkpoints import load_model
    from batvision_kd.data_source import open_data
    from batvision_kd.flags import parse
    from batvision_kd.training.validation import validate
    from shared.run import World

    settings = parse("audio", arguments(work), "test").settings()
    model, card = load_model(work / "checkpoints/t/best_model.pth", kind="audio")
    data = open_data(settings).val
    return validate(model, data, "audio", max_depth_m=card["max_depth_m"], batch_size=2, world=World())["rmse"]


@pytest.mark.slow
class TestTeacher(FaultSuite):
    command = RGB

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, taught) -> Path:
        return taught


@pytest.mark.slow
class TestTaught(FaultSuite):
    command = TAUGHT

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, taught) -> Path:
        return taught
