"""Every command that reads weights or a state, and `--cfg_file`, on files that come from outside."""

from dataclasses import replace
from pathlib import Path

import pytest
from vox_samples import PROGRAMS, arguments, prepare_work, run_folder

from shared.loop import Loop
from shared.testing.file_faults import ConfigFaults, Configured, FileFaults, Reader, cut_short
from voxel_mae import commands, convert
from voxel_mae.engine import training
from voxel_mae.engine.judging import Judge

FOURTH = "step-0000004.pt"  # one step into the second epoch


def pretrain(argv: list[str]) -> int:
    return commands.main(commands.PRETRAIN, argv)


def finetune(argv: list[str]) -> int:
    return commands.main(commands.TRAIN, argv)


def test(argv: list[str]) -> int:
    return commands.main(commands.TEST, argv)


test.__test__ = False  # a command, not a case


def started(stage: str, *more: str):
    return lambda work: arguments(work, stage, "--save_every", "1", *more)


def epoch_1(stage: str):
    return lambda work: run_folder(work, stage) / "ckpt/checkpoint_epoch_1.pth"


def with_file(flag: str, stage: str):
    """A fine-tuning of its own that is given that stage's file."""
    return lambda work: arguments(work, "finetune", "--extra_tag", "other", flag, str(epoch_1(stage)(work)))


def judged(work: Path) -> list[str]:
    return ["--cfg_file", str(work / "cfgs/tiny/finetune.yaml"), "--output_dir", str(work / "output"), "--workers", "0",
            "--device", "cpu", "--set", "DATA_CONFIG.DATA_PATH", str(work / "site"), "--extra_tag", "judged",
            "--ckpt", str(epoch_1("finetune")(work))]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Both trainings, cut in their second epoch."""
    work = prepare_work(tmp_path_factory.mktemp("prepared") / "work")
    for stage in PROGRAMS:
        main = pretrain if stage == "pretrain" else finetune
        cut_short(main, started(stage)(work), work.parent, (Loop, "_optimize"), 5)
    return work


TRANSFER = Reader(
    name="--pretrained_model",
    main=finetune,
    argv=with_file("--pretrained_model", "pretrain"),
    file=epoch_1("pretrain"),
    taken=(training, "build_loop"),
    table="model_state",
    needed="pretrainer.backbone_3d.",
    accepts=("module.", "manifest missing", "unexpected"),  # what a detector has no place for is left behind, and said
)
CONVERT = Reader(
    name="convert",
    main=convert.main,
    argv=lambda work: [str(epoch_1("finetune")(work)), str(work / "ours.pth")],
    file=epoch_1("finetune"),
    taken=(convert, "convert_state"),
    table=None,  # it looks for a backbone; whether that fits is asked where the result is loaded
    accepts=("manifest missing",),
)


class TestFiles(FileFaults):
    readers = (
        Reader("test --ckpt", test, judged, epoch_1("finetune"), (Judge, "model"), table="model_state"),
        TRANSFER,
        replace(TRANSFER, name="--pretrained_model bare", bare=True, accepts=("module.", "unexpected")),
        Reader("--ckpt", finetune, with_file("--ckpt", "finetune"), epoch_1("finetune"), (Loop, "resume"), table=None),
        Reader("resume", pretrain, started("pretrain"), lambda work: run_folder(work, "pretrain") / "pretrain" / FOURTH,
               (Loop, "batches"), pointer="latest"),
        CONVERT,
        replace(CONVERT, name="convert bare", bare=True),
    )  # fmt: skip


def based_on(stage: str):
    return lambda work: f"_BASE_CONFIG_: {work / 'cfgs/tiny' / f'{stage}.yaml'}\n"


class TestConfig(ConfigFaults):
    commands = tuple(
        Configured(
            name=stage,
            main=lambda argv, program=program: commands.main(program, argv),
            argv=lambda work, file: ["--cfg_file", str(file), "--output_dir", str(work / "output"), "--device", "cpu"],
            taken=(commands, "open_sources"),
            number="OPTIMIZATION.LR",
            flag="OPTIMIZATION.DIFFERENTIAL_LR",
            text="DATA_CONFIG.DATA_SPLIT.train",
            head=based_on("pretrain" if stage == "pretrain" else "finetune"),
        )
        for stage, program in {**PROGRAMS, "test": commands.TEST}.items()
    )
