"""Both trainings under the faults of `shared.testing.faults`; the whole suites are slow, a few cases always run.

Traps T32 (a resumed run equals an uncut one, a broken file is told) and T34 (a non-finite loss stops all processes and
names the frames) are cases of the suites.

The pretraining is Phase 2's: its teacher, projectors and queues stand in the model's state, and with it in every
comparison of a cut run with an uncut one.
"""

import json
import shutil
from pathlib import Path

import pytest
from vox_samples import PROGRAMS, arguments, prepare_work, run_folder

from shared import checkpoint
from shared.testing.faults import FaultSuite, GoldenCurves, Judging, TrainingCommand, finished_world
from shared.testing.worker_faults import TIMEOUT_S, WorkerFaults
from voxel_mae import commands
from voxel_mae.data.dataset import LidarDataset
from voxel_mae.engine import training
from voxel_mae.engine.judging import Judge

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
        twenty_steps=["--epochs", "7", "--extra_tag", "golden", "--num_epochs_to_eval", "0"],
        judging=judged(stage),
        **fields,
    )


# The contrasts draw negatives from the processes' own batches; occupancy is what two processes compute as one.
PRETRAIN = command("pretrain", uneven=[*PHASE_1, "--extra_tag", "other"])
FINETUNE = command("finetune")
READER = (LidarDataset, "__getitem__")
TWO_WORKERS = [*FINETUNE.workers(2), "--loader_timeout_s", str(TIMEOUT_S)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """With a list of 11 frames to judge, two more than there are."""
    work = prepare_work(tmp_path_factory.mktemp("prepared"))
    site = work / "site"
    names = (site / "ImageSets/val_9.txt").read_text().split()
    for name in names[:2]:
        for path in (site / f"points/{name}.npy", site / f"labels/{name}.txt"):
            shutil.copyfile(path, path.with_stem(f"again_{name}"))
        names.append(f"again_{name}")
    (site / "ImageSets/val_11.txt").write_text("\n".join(names) + "\n")
    return work


class TestGolden(GoldenCurves):
    commands, golden = [PRETRAIN, FINETUNE], Path(__file__).parent / "golden_vox.json"


class TestPretraining(WorkerFaults, FaultSuite):
    command = PRETRAIN
    sample_reader = READER
    two_workers = TWO_WORKERS
    always = (
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[mid-epoch]",
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[during evaluation]",
        "test_teacher_and_queues_stand_in_what_is_compared",
    )

    def test_teacher_and_queues_stand_in_what_is_compared(self, reference):
        names = reference.end["checkpoint"]["model"]
        assert any(".teacher.encoder." in name for name in names) and any("queue_teacher" in name for name in names)
        assert int(names["pretrainer.frame.written"]) > 0 and int(names["pretrainer.steps"]) == 6


class TestFinetuning(WorkerFaults, FaultSuite):
    command, always = FINETUNE, ()
    sample_reader = READER
    two_workers = TWO_WORKERS


@pytest.mark.fault(22)
def test_two_processes_fine_tune_together(prepared, tmp_path):
    """3 judged frames do not divide by two: all are judged, once."""
    work = finished_world(FINETUNE, Path(shutil.copytree(prepared, tmp_path / "work")), "--epochs", "1")
    folder = run_folder(work, "finetune")
    assert json.loads((folder / "eval/eval_with_train/epoch_1/val/scores.json").read_text())["frames"] == 3
    assert checkpoint.load(folder / "ckpt/checkpoint_epoch_1.pth")["it"] == 3


@pytest.mark.fault(22)
def test_two_processes_pretrain_with_queues_of_all_clouds(prepared, tmp_path):
    """Each process alone would remember 3 of the 6 clouds of an epoch."""
    work = Path(shutil.copytree(prepared, tmp_path / "work"))
    finished_world(PRETRAIN, work, "--epochs", "1", "--num_epochs_to_eval", "0")
    state = checkpoint.load(run_folder(work, "pretrain") / "ckpt/checkpoint_epoch_1.pth")["model_state"]
    assert int(state["pretrainer.frame.written"]) == 6
    assert (state["pretrainer.frame.queue_teacher"].norm(dim=1) > 0.99).all()
