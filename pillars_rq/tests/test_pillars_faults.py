"""The training of the books under the faults of `shared.faults`."""

import json
import shutil
from pathlib import Path

import pytest
from rq_run_samples import write_work

from pillars_rq import judging, rq_command
from shared.faults import FaultSuite, TrainingCommand, start
from shared.injections import metrics_of

SCRIPT = Path(__file__).parents[1] / "train_eval_rq.py"
GOLDEN = Path(__file__).parent / "golden_rq.json"
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
    teacher=lambda work: work / "pretrained" / "epoch_160.pth",
    uneven=["--set", "training.batch_size=3", "--run", "other"],
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    work = write_work(tmp_path_factory.mktemp("prepared") / "work", ONE_STAGE)
    (work / "results/t").mkdir(parents=True)
    (work / "results/t/run.lock").touch()  # the suite looks into it before the first run has made its folder
    return work


def test_the_first_20_steps_are_those_of_the_golden_curve(tiny, tmp_path):
    """To refresh after a change that is meant to move it: delete the file, run twice, and look at the difference."""
    more = ["--run", "golden", "--set", "progressive_learning.embedding_stage_epochs=7",
            "--set", "training.early_stopping_patience=9"]  # fmt: skip
    work = Path(shutil.copytree(tiny, tmp_path / "work"))
    ended = start(COMMAND, work, more=more).wait()
    assert ended.code == 0, ended.output[-3000:]
    rows = [row for row in metrics_of(work / "results/golden") if row["split"] == "codebook_0_stage_0/train"]
    curve = [row["loss"] for row in rows][:20]
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(curve, indent=1) + "\n")
        pytest.fail(f"{GOLDEN.name} was not there: written, check it and commit it")
    assert len(curve) == 20
    assert curve == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)


@pytest.mark.slow
class TestRq(FaultSuite):
    command = COMMAND

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, tiny) -> Path:
        return tiny
