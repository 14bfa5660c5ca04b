"""Every command that reads a model or a state, and `--config`, on files that come from outside."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from bat_samples import TEACHER, arguments, command

from batvision_kd import command as command_module
from batvision_kd import evaluate_command, export_command, listening
from batvision_kd.spectrogram import SpectrogramSettings
from batvision_kd.training import experiment
from shared.loop import Loop
from shared.testing.file_faults import ConfigFaults, Configured, FileFaults, Reader, cut_short

EXPORTS = find_spec("onnxruntime") is not None
STUDENT = "checkpoints/a/best_model.pth"
HEARD = (SpectrogramSettings, "from_dict")  # what listening and exporting ask of a loaded model first


def audio(argv: list[str]) -> int:
    return command_module.main("audio", argv)


def distillation(argv: list[str]) -> int:
    return command_module.main("distillation", argv)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A work folder with the embedded world, a teacher, a student, and a run that was cut in its third step."""
    if EXPORTS:
        export_command.require_extra()  # slow to import: here once, not in each child
    work = tmp_path_factory.mktemp("prepared")
    assert command("rgb", work, "--experiment_name", TEACHER, "--nb_epochs", "1") == 0
    assert command("audio", work, "--experiment_name", "a", "--nb_epochs", "1") == 0
    cut_short(audio, arguments(work, "--experiment_name", "t"), work, (Loop, "_optimize"), 3)
    return work


def of_student(name: str, main, *more: str, taken) -> Reader:
    """A command that is given the student."""
    return Reader(
        name=name,
        main=main,
        argv=lambda work: ["--checkpoint", str(work / STUDENT), *(word.format(work=work) for word in more)],
        file=lambda work: work / STUDENT,
        taken=taken,
        table="",
        few=main is not evaluate_command.main,
    )


class TestFiles(FileFaults):
    readers = (
        Reader(
            name="--teacher",
            main=distillation,
            argv=lambda work: arguments(
                work, "--experiment_name", "kd", "--teacher", str(work / "checkpoints" / TEACHER / "best_model.pth")
            ),
            file=lambda work: work / "checkpoints" / TEACHER / "best_model.pth",
            taken=(experiment, "build_model"),
            table="",
        ),
        of_student("evaluate", evaluate_command.main, "--out", "{work}/out", taken=(evaluate_command, "settings_of")),
        of_student("listen", listening.main, "{work}/echo.wav", taken=HEARD),
        *([of_student("export", export_command.main, "--out", "{work}/onnx", taken=HEARD)]
          if EXPORTS else []),
        Reader(
            name="resume",
            main=audio,
            argv=lambda work: arguments(work, "--experiment_name", "t"),
            file=lambda work: work / "logs/t/audio/step-0000002.pt",
            taken=(Loop, "batches"),
            pointer="latest",
        ),
        Reader(
            name="--checkpoints",
            main=audio,
            argv=lambda work: arguments(work, "--experiment_name", "a", "--nb_epochs", "1", "--checkpoints", "1"),
            file=lambda work: work / "checkpoints/a/epoch_0001.pth",
            taken=(Loop, "resume"),
            table=None,  # weights of another model are found by the resume, which has its cases above
        ),
    )  # fmt: skip


class TestConfig(ConfigFaults):
    commands = tuple(
        Configured(
            name=kind,
            main=lambda argv, kind=kind: command_module.main(kind, argv),
            argv=lambda work, file: ["--config", str(file), "--output_dir", str(work), "--experiment_name", "t"],
            taken=(experiment, "open_data"),
            number="training.learning_rate",
            flag="training.bf16",
            text="training.wandb_project",
        )
        for kind in ("rgb", "audio", "distillation")
    )
