"""Both trainings under the faults of `shared.faults`; the whole suites are slow, a few cases always run.

Traps T32 (a resumed run equals an uncut one, a broken file is told) and T34 (a non-finite loss stops all processes and
names the frames) are cases of the suites.

The pretraining is Phase 2's: its teacher, projectors and queues stand in the model's state, and with it in every
comparison of a cut run with an uncut one.
"""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from vox_samples import PROGRAMS, arguments, prepare_work, run_folder

from shared import checkpoint
from shared.faults import FaultSuite, Judging, TrainingCommand, start, start_world, stop_points
from shared.injections import differences, metrics_of, outcome
from voxel_mae import commands
from voxel_mae.engine import training
from voxel_mae.engine.judging import Judge

GOLDEN = Path(__file__).parent / "golden_vox.json"
TOOLS = Path(__file__).parents[1] / "tools"
PHASE_1 = ["--set", "LOSS_CONFIG.TEACHER_STUDENT_WEIGHT", "0.0"]


def judged(stage: str) -> Judging:
    def argv(work: Path, samples: int) -> list[str]:
        kept = arguments(work, stage, "--set", "DATA_CONFIG.DATA_SPLIT.test", f"val_{samples}", "--eval_tag", "judged")
        left_out = {"--num_epochs_to_eval", "--logger_iter_interval"}
        return [word for n, word in enumerate(kept) if word not in left_out and kept[n - 1] not in left_out]

    def scores(work: Path) -> dict:
        (found,) = (run_folder(work, stage) / "eval").rglob("judged/scores.json")
        return json.loads(found.read_text())

    return Judging(argv, scores)


def command(stage: str, **fields) -> TrainingCommand:
    def main(argv: list[str]) -> int:
        return commands.main(commands.TEST if "--eval_tag" in argv else PROGRAMS[stage], argv)

    return TrainingCommand(
        name=stage,
        main=main,
        argv=lambda work: arguments(work, stage, "--save_every", "1"),
        script=TOOLS / PROGRAMS[stage],
        run_folder=lambda work: run_folder(work, stage),
        stage=stage,
        weights="ckpt/checkpoint_epoch_2.pth",
        evaluation=(Judge, "checkpoint"),
        preparation={"data": (commands, "open_sources"), "teacher": (training, "build_network")},
        workers=lambda count: ["--workers", str(count)],
        another_seed=["--seed", "1", "--extra_tag", "other"],
        judging=judged(stage),
        **fields,
    )


# The contrasts draw negatives from the processes' own batches; occupancy is what two processes compute as one.
PRETRAIN = command("pretrain", uneven=[*PHASE_1, "--extra_tag", "other"])
FINETUNE = command("finetune")


def finished(one: TrainingCommand, work: Path, *more: str) -> Path:
    ended = start(one, work, more=more).wait()
    assert ended.code == 0, ended.output[-3000:]
    return work


@pytest.fixture(scope="module")
def prepared_work(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("prepared") / "work"
    for stage in PROGRAMS:  # the suite looks into it before the first run has made its folder
        run_folder(work, stage).mkdir(parents=True)
        (run_folder(work, stage) / "run.lock").touch()
    return prepare_work(work)


@pytest.mark.parametrize("one", [PRETRAIN, FINETUNE], ids=lambda one: one.name)
def test_the_first_20_steps_are_those_of_the_golden_curve(one, prepared_work):
    """To refresh after a change that is meant to move it: delete its entry, run twice, and look at the difference."""
    finished(one, prepared_work, "--epochs", "7", "--extra_tag", "golden", "--num_epochs_to_eval", "0")
    records = metrics_of(run_folder(prepared_work, one.stage, "golden"))
    curve = [row["loss"] for row in records if row["split"] == f"{one.stage}/train"][:20]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if one.name not in golden:
        GOLDEN.write_text(json.dumps({**golden, one.name: curve}, indent=1) + "\n")
        pytest.fail(f"{GOLDEN.name} had no curve of {one.name}: written, check it and commit it")
    assert len(curve) == 20
    assert curve == pytest.approx(golden[one.name], rel=1e-3)


@pytest.fixture(scope="module")
def uncut(prepared_work, tmp_path_factory) -> dict:
    work = finished(PRETRAIN, Path(shutil.copytree(prepared_work, tmp_path_factory.mktemp("uncut") / "work")))
    return outcome(PRETRAIN.run_folder(work), PRETRAIN.stage, PRETRAIN.weights)


def test_teacher_and_queues_stand_in_what_is_compared(uncut):
    names = uncut["checkpoint"]["model"]
    assert any(".teacher.encoder." in name for name in names) and any("queue_teacher" in name for name in names)
    assert int(names["pretrainer.frame.written"]) > 0 and int(names["pretrainer.steps"]) == 6


@pytest.mark.parametrize("point", ["mid-epoch", "during evaluation"])
def test_a_pretraining_killed_and_continued_ends_as_if_uncut(point, prepared_work, uncut, tmp_path):
    work = Path(shutil.copytree(prepared_work, tmp_path / "work"))
    assert start(PRETRAIN, work, stop_points(PRETRAIN, 6)[point]).wait().code == -signal.SIGKILL
    finished(PRETRAIN, work)
    assert differences(uncut, outcome(PRETRAIN.run_folder(work), PRETRAIN.stage, PRETRAIN.weights)) == []


def test_two_processes_fine_tune_together(prepared_work, tmp_path):
    """3 judged frames do not divide by two: all are judged, once."""
    work = Path(shutil.copytree(prepared_work, tmp_path / "work"))
    one = replace(FINETUNE, argv=lambda work: [*FINETUNE.argv(work), "--epochs", "1"])
    for ended in start_world(one, work):
        assert ended.code == 0, ended.output[-3000:]
    folder = run_folder(work, "finetune")
    assert json.loads((folder / "eval/eval_with_train/epoch_1/val/scores.json").read_text())["frames"] == 3
    assert checkpoint.load(folder / "ckpt/checkpoint_epoch_1.pth")["it"] == 3


def test_two_processes_pretrain_with_queues_of_all_clouds(prepared_work, tmp_path):
    """Each process alone would remember 3 of the 6 clouds of an epoch."""
    work = Path(shutil.copytree(prepared_work, tmp_path / "work"))
    one = replace(PRETRAIN, argv=lambda work: [*PRETRAIN.argv(work), "--epochs", "1", "--num_epochs_to_eval", "0"])
    for ended in start_world(one, work):
        assert ended.code == 0, ended.output[-3000:]
    state = checkpoint.load(run_folder(work, "pretrain") / "ckpt/checkpoint_epoch_1.pth")["model_state"]
    assert int(state["pretrainer.frame.written"]) == 6
    assert (state["pretrainer.frame.queue_teacher"].norm(dim=1) > 0.99).all()


@pytest.mark.slow
class TestPretraining(FaultSuite):
    command = PRETRAIN

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, prepared_work) -> Path:
        return prepared_work


@pytest.mark.slow
class TestFinetuning(FaultSuite):
    command = FINETUNE

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, prepared_work) -> Path:
        return prepared_work
