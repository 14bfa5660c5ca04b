"""Every option and place from which weights or a state are read, and `--config`, on files that come from outside."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch

from shared.errors import CheckpointError
from shared.loop import Loop
from shared.testing import damage
from shared.testing.file_faults import ConfigFaults, Configured, FileFaults, Reader, cut_short
from talk2car_kd import embedded_teacher, pipeline
from talk2car_kd.config import Teacher as TeacherSettings
from talk2car_kd.stages import distill, ground
from talk2car_kd.stages import test as judging
from talk2car_kd.teacher import load_teacher
from talk2car_kd.weights import DISTILLED, save_weights

TINY = Path(__file__).parent / "tiny.yaml"
TEACHER = "tiny-teacher"  # the embedded teacher's architecture under a name of open_clip's
ADOPTED = ("open_clip_model.safetensors", "open_clip_config.json")  # copied beside the weights that it belongs to


def command(*args: str, sets=lambda work: ()):
    """work folder -> arguments; `{work}` stands for it."""

    def argv(work: Path) -> list[str]:
        folders = [f"data.{key}_dir={work / key}" for key in ("results", "cache", "embedded")]
        settings = ["training.device=cpu", *folders, *sets(work)]
        words = [part for setting in settings for part in ("--set", setting)]
        return ["--config", str(TINY), *words, *(word.format(work=work) for word in args)]

    return argv


def from_files(work: Path) -> list[str]:
    return ["teacher.train=null", f"teacher.name={TEACHER}", f"teacher.pretrained={work / 'teacher.pt'}",
            f"student.init={work / 'backbone.pth'}"]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tiny_run, tmp_path_factory) -> Path:
    """A run `tiny` with its weights, Stage 2 cut in its third step in `t`, and weights without manifests."""
    work = tmp_path_factory.mktemp("prepared") / "work"
    tiny = Path(shutil.copytree(tiny_run.folder, work / "results" / "tiny"))
    config = tiny_run.config
    save_weights(tiny / DISTILLED, tiny_run.model.encoder, config.student, tiny_run.teacher, step=1,
                 config=config.model_dump(mode="json"))  # fmt: skip
    cut_short(pipeline.main, command("--stage", "2", "--run", "t")(work), work.parent, (Loop, "_optimize"), 3)
    recipe = config.teacher.train
    torch.save(embedded_teacher.new_model(recipe).state_dict(), work / "teacher.pt")
    torch.save(tiny_run.model.encoder.backbone.state_dict(), work / "backbone.pth")
    (work / f"{TEACHER}.json").write_text(json.dumps(embedded_teacher.model_config(recipe)))
    open_clip.add_model_config(work / f"{TEACHER}.json")
    return work


def stage_2(name: str, *more: str) -> Reader:
    return Reader(
        name=name,
        main=pipeline.main,
        argv=command("--stage", "2", "--run", "other", *more),
        file=lambda work: work / "results/tiny" / DISTILLED,
        taken=(ground, "commands_of"),
        leaves=ADOPTED,
    )


def bare(name: str, file: str, taken) -> Reader:
    argv = command("--stage", "1", "--run", "other", sets=from_files)
    return Reader(name, pipeline.main, argv, lambda work: work / file, taken, table="", bare=True)


class TestFiles(FileFaults):
    readers = (
        stage_2("distilled_weights found"),
        stage_2("--checkpoint of stage 2", "--checkpoint", f"{{work}}/results/tiny/{DISTILLED}"),
        Reader(
            name="--checkpoint of test",
            main=pipeline.main,
            argv=command("--stage", "test", "--run", "other", "--checkpoint", "{work}/results/tiny/talk2car_best.pth"),
            file=lambda work: work / "results/tiny/talk2car_best.pth",
            taken=(judging, "teacher_of"),
        ),
        Reader(
            name="resume",
            main=pipeline.main,
            argv=command("--stage", "2", "--run", "t"),
            file=lambda work: work / "results/t/stage2/step-0000002.pt",
            taken=(Loop, "batches"),
            pointer="latest",
        ),
        bare("teacher.pretrained", "teacher.pt", (distill, "build_student")),
        bare("student.init", "backbone.pth", (distill, "_loop")),
    )


class TestConfig(ConfigFaults):
    commands = (
        Configured(
            name="main",
            main=pipeline.main,
            argv=lambda work, file: ["--dry-run", "--config", str(file)],
            taken=(pipeline, "plan"),
            number="stage1.lr",
            flag="training.bf16",
            text="data.mark",
        ),
    )

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, tmp_path_factory) -> Path:
        return tmp_path_factory.mktemp("empty")


# --- teacher.pretrained: local-dir:<folder>, which open_clip reads ----------------------------------------------------


def teacher_in(folder: Path):
    return load_teacher(TeacherSettings(name="x", pretrained=f"local-dir:{folder}", train=None))


@pytest.mark.fault(8)
@pytest.mark.parametrize("case", damage.NO_WEIGHTS)
def test_a_damaged_teacher_s_folder_is_told(tiny_run, tmp_path, case):
    folder = Path(shutil.copytree(tiny_run.folder / "teacher", tmp_path / "teacher"))
    damage.NO_WEIGHTS[case](folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=str(folder)):
        teacher_in(folder)


@pytest.mark.fault(9)
@pytest.mark.parametrize("case", damage.HOSTILE)
def test_a_hostile_pickle_in_a_teacher_s_folder_is_refused_by_name(tiny_run, tmp_path, case):
    folder, canary = Path(shutil.copytree(tiny_run.folder / "teacher", tmp_path / "teacher")), tmp_path / "canary"
    (folder / "open_clip_model.safetensors").unlink()
    write, name = damage.HOSTILE[case]
    write(folder / "open_clip_pytorch_model.bin", canary, {"w": torch.ones(2)})
    with pytest.raises(CheckpointError, match=f"{name}`") as refused:
        teacher_in(folder)
    assert "weights_only" not in str(refused.value)
    assert not canary.exists()
