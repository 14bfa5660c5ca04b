"""The three trainings under the faults of `shared.testing`; the whole suites are slow, a few cases always run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from bat_samples import TEACHER, arguments

from batvision_kd import command as command_module
from batvision_kd import evaluate_command
from batvision_kd.data.dataset import EchoDepthDataset
from batvision_kd.training import experiment
from shared.testing.faults import FaultSuite, GoldenCurves, TrainingCommand, finished, finished_world
from shared.testing.hostile_text import EVIL_NAME, assert_only_text
from shared.testing.injections import metrics_of
from shared.testing.teacher_faults import TeacherFaults
from shared.testing.validation_faults import ValidationFaults
from shared.testing.worker_faults import TIMEOUT_S, WorkerFaults

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
        twenty_steps=["--nb_epochs", "7", "--experiment_name", f"golden_{kind}"],
        golden_run=f"golden_{kind}",
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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A work folder with the embedded world and a teacher."""
    return finished(TEACHES, tmp_path_factory.mktemp("taught"))


class TestGolden(GoldenCurves):
    commands, golden = [RGB, AUDIO, TAUGHT], Path(__file__).parent / "golden_bat.json"


class TestTeacher(ValidationFaults, FaultSuite):
    command, always = RGB, ()

    def validate_on(self, work, samples):
        return ["--set", f"data.embedded.val={samples}"]

    def stand_still(self):
        super().stand_still()
        experiment.write_report = lambda *arguments: None  # it refuses a model that no batch has gone through


class TestTaught(WorkerFaults, TeacherFaults, FaultSuite):
    command = TAUGHT
    teacher_made = (experiment, "open_teacher")
    sample_reader = (EchoDepthDataset, "__getitem__")
    two_workers = (*TAUGHT.workers(2), "--set", f"training.loader_timeout_s={TIMEOUT_S}")
    always = (
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[inside accumulation]",
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[during evaluation]",
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[after the last step]",
    )

    @pytest.mark.fault(21)
    def test_names_that_are_code_are_text_in_the_reports(self, prepared, tmp_path):
        """Of the training (its configuration) and of the evaluation (the checkpoint's name)."""
        work = finished(self.command, Path(shutil.copytree(prepared, tmp_path / EVIL_NAME)))
        assert_only_text(work / "results/t/report.html", EVIL_NAME)
        best = work / "checkpoints/t/best_model.pth"
        assert evaluate_command.main(["--checkpoint", str(best), "--out", str(tmp_path / "out")]) == 0
        assert_only_text(tmp_path / "out/report.html", EVIL_NAME)


@pytest.mark.fault(22)
def test_evaluation_by_several_processes_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert evaluate_command.main(["--checkpoint", "any.pth"]) == 2
    assert "evaluate.py runs in one process" in capsys.readouterr().err


@pytest.mark.fault(22)
def test_two_processes_train_together_and_judge_as_one(prepared, tmp_path):
    """3 validation images do not divide by two; the last epoch's state, judged again alone, has the same scores."""
    work = finished_world(AUDIO, Path(shutil.copytree(prepared, tmp_path / "work")), "--nb_epochs", "1")
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
