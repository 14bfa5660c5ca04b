"""The training of the books under the faults of `shared.testing.faults`."""

import json
import shutil
from pathlib import Path

import pytest
from rq_run_samples import write_work

from pillars_rq import judging, rq_command
from pillars_rq.kitti.dataset import KittiDataset
from shared.testing.faults import FaultSuite, GoldenCurves, TrainingCommand, finished
from shared.testing.hostile_text import EVIL_NAME, assert_only_text
from shared.testing.teacher_faults import TeacherFaults
from shared.testing.validation_faults import ValidationFaults
from shared.testing.worker_faults import TIMEOUT_S, WorkerFaults

SCRIPT = Path(__file__).parents[1] / "train_eval_rq.py"
ONE_STAGE = {
    "model.n_codebook": 1, "progressive_learning.embedding_schedule": [128], "logging.log_freq": 1,
    "logging.use_wandb": False,
}  # fmt: skip


def argv(work: Path) -> list[str]:
    settings = [f"dataset.dir={work / 'datasets'}", f"model.pretrained_weight={work / 'pretrained/epoch_160.pth'}",
                f"logging.saved_path={work / 'results' / 't'}", "training.save_every=1"]  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["--gpu", "-1", "--config", str(work / "exp/split1_ALL.yaml"), *sets]


COMMAND = TrainingCommand(
    name="rq",
    main=rq_command.main,
    argv=argv,
    script=SCRIPT,
    run_folder=lambda work: work / "results" / "t",
    stage="codebook_0_stage_0",
    weights="checkpoints/final.pth",
    evaluation=(judging, "judge"),
    preparation={"data": (rq_command, "open_data"), "teacher": (rq_command, "open_detector")},
    workers=lambda count: ["--set", f"training.num_workers={count}"],
    another_seed=["--set", "training.seed=1", "--run", "other"],
    twenty_steps=["--run", "golden", "--set", "progressive_learning.embedding_stage_epochs=7",
                  "--set", "training.early_stopping_patience=9"],
    teacher=lambda work: work / "pretrained" / "epoch_160.pth",
    uneven=["--set", "training.batch_size=3", "--run", "other"],
)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return write_work(tmp_path_factory.mktemp("prepared") / "work", ONE_STAGE)


class TestGolden(GoldenCurves):
    commands, golden = [COMMAND], Path(__file__).parent / "golden_rq.json"


class TestRq(WorkerFaults, ValidationFaults, TeacherFaults, FaultSuite):
    command, always = COMMAND, ()
    teacher_made = (rq_command, "open_detector")
    judged_within = 1e-3  # books are moving averages: they do not stand still
    sample_reader = (KittiDataset, "__getitem__")
    two_workers = (*COMMAND.workers(2), "--set", f"training.loader_timeout_s={TIMEOUT_S}")

    def validate_on(self, work, samples):
        """The two frames again and again, under other names."""
        (file,) = work.rglob("kitti_infos_val.json")
        index = json.loads(file.read_text())
        frames = list(index["frames"].values())
        index["frames"] = {f"{number:06d}": frames[number % 2] for number in range(100, 100 + samples)}
        file.write_text(json.dumps(index))

    @pytest.mark.fault(21)
    def test_names_that_are_code_are_text_in_the_report(self, prepared, tmp_path):
        work = finished(self.command, Path(shutil.copytree(prepared, tmp_path / EVIL_NAME)))
        assert_only_text(self.run(work) / "report.html", EVIL_NAME)
