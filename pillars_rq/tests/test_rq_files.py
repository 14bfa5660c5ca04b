"""The base detector, the codebooks, states to resume from and `--config`, on files that come from outside."""

from pathlib import Path

import pytest
from base_samples import TINY
from rq_run_samples import write_work

from pillars_rq import base_training, rq_command, rq_training
from pillars_rq.wire import commands as wire_commands
from shared.loop import Loop
from shared.testing.file_faults import WRAPPED, ConfigFaults, Configured, FileFaults, Reader, cut_short

CHANGES = {"model.n_codebook": 1, "logging.log_freq": 1, "logging.use_wandb": False}  # two stages of one book
BOOKS = "results/t/checkpoints/codebook_0_stage_0_final.pth"
BASE = "pretrained/epoch_160.pth"


def train(work: Path) -> list[str]:
    settings = [f"dataset.dir={work / 'datasets'}", f"model.pretrained_weight={work / BASE}",
                f"logging.saved_path={work / 'results' / 't'}", "training.save_every=1"]  # fmt: skip
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["--gpu", "-1", "--config", str(work / "exp/split1_ALL.yaml"), *sets]


def judge(work: Path) -> list[str]:
    point = ["--eval_num_codebooks", "1", "--eval_num_embeddings", "2"]
    return [*train(work), "--mode", "eval", *point, "--rq_ckpt", str(work / BOOKS)]


def train_base(work: Path) -> list[str]:
    return ["--run", "t", "--config", str(work / "tiny.yaml"), "--set", f"data.dir={work / 'datasets/kitti'}",
            "--set", f"data.results_dir={work / 'base'}"]  # fmt: skip


def serve(work: Path) -> list[str]:
    return ["--pretrained", str(work / BASE), "--rq_ckpt", str(work / BOOKS), "--listen", "tcp://127.0.0.1:*"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Frames, a base detector, and trainings of both kinds that were cut: that of the books in its second stage."""
    work = write_work(tmp_path_factory.mktemp("prepared") / "work", CHANGES)
    (work / "tiny.yaml").write_text(TINY)
    cut_short(base_training.main, train_base(work), work.parent, (Loop, "_optimize"), 3)
    cut_short(rq_command.main, train(work), work.parent, (rq_training, "begin_epoch"), 4)
    return work


def from_elsewhere(name: str, main, argv, file: str, taken, table: str | None) -> tuple[Reader, Reader]:
    """A file that may have no manifest: with its own, and without."""
    given = {"main": main, "argv": argv, "file": lambda work: work / file, "taken": taken, "table": table}
    return Reader(name, accepts=(*WRAPPED, "manifest missing"), **given), Reader(f"{name} bare", bare=True, **given)


def resumed(name: str, main, argv, file: str, **rest) -> Reader:
    return Reader(name, main, argv, lambda work: work / file, pointer="latest", **rest)


class TestFiles(FileFaults):
    readers = (
        *from_elsewhere("pretrained_weight", rq_command.main, train, BASE, (rq_command, "check_network"), "model"),
        *from_elsewhere("--rq_ckpt", rq_command.main, judge, BOOKS, (rq_command, "check_point"), None),
        *from_elsewhere("server --rq_ckpt", wire_commands.server_main, serve, BOOKS,
                        (wire_commands, "detections_of"), None),
        resumed("resume of the base", base_training.main, train_base, "base/t/base/step-0000002.pt",
                taken=(Loop, "batches")),
        resumed("resume of a stage", rq_command.main, train, "results/t/codebook_0_stage_1/step-0000003.pt",
                taken=(Loop, "batches")),
        resumed("resume of the stages", rq_command.main, train, "results/t/progress/stages-001.pt",
                taken=(rq_training, "train_stage"), table=None),
    )  # fmt: skip


class TestConfig(ConfigFaults):
    commands = (
        Configured(
            name="base",
            main=base_training.main,
            argv=lambda work, file: ["--config", str(file), "--set", f"data.results_dir={work}"],
            taken=(base_training, "open_root"),
            number="training.lr",
            flag="training.bf16",
            text="data.mark",
        ),
        Configured(
            name="rq",
            main=rq_command.main,
            argv=lambda work, file: ["--config", str(file), "--set", f"logging.saved_path={work / 't'}"],
            taken=(rq_command, "open_detector"),
            number="training.init_lr",
            flag="logging.use_wandb",
            text="logging.wandb_project",
        ),
    )
