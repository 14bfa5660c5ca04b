"""Both training stages under the faults of `shared.faults`."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from shared.faults import ExportCommand, FaultSuite, GoldenCurves, Judging, TrainingCommand, finished
from talk2car_kd import onnx_export, pipeline, teacher_cache
from talk2car_kd.stages import distill, ground

CONFIG = Path(__file__).parent / "faults.yaml"
SCRIPT = Path(__file__).parents[1] / "main.py"


def settings(work: Path, *more: str) -> list[str]:
    folders = [f"data.{key}_dir={work / key}" for key in ("results", "cache", "embedded")]
    return [part for setting in (*folders, *more) for part in ("--set", setting)]


def argv(stage: str):
    return lambda work: ["--stage", stage, "--run", "t", "--config", str(CONFIG), *settings(work)]


def judge(work: Path, frames: int) -> list[str]:
    """The test stage on a world with so many val frames, and two fewer of the test split."""
    best = work / "results" / "t" / "talk2car_best.pth"
    sizes = (f"world.val_frames={frames}", f"world.test_frames={frames - 2}")
    return ["--stage", "test", "--run", "judged", "--checkpoint", str(best), "--config", str(CONFIG),
            *settings(work, *sizes)]  # fmt: skip


def stage(number: str, weights: str, evaluation, teacher_call, accumulate: int) -> TrainingCommand:
    return TrainingCommand(
        name=f"stage{number}",
        main=pipeline.main,
        argv=argv(number),
        script=SCRIPT,
        run_folder=lambda work: work / "results" / "t",
        stage=f"stage{number}",
        weights=weights,
        evaluation=evaluation,
        preparation={"data": (pipeline, "data_roots"), "teacher": teacher_call},
        workers=lambda count: ["--set", f"training.workers={count}"],
        another_seed=["--set", "training.seed=1", "--run", "other"],
        twenty_steps=["--set", "stage1.epochs=7", "--set", "stage2.epochs=7", "--set", "stage2.eval_every=7",
                      "--run", "golden"],
        accumulate=accumulate,
        teacher=lambda work: work / "results" / "t" / "teacher" / "open_clip_model.safetensors",
        uneven=(),
    )  # fmt: skip


STAGE1 = stage("1", "distilled_weights.pth", (distill, "_evaluate"), (teacher_cache, "_fill"), 1)
STAGE2 = replace(
    stage("2", "talk2car_last.pth", (ground, "all_records"), (ground, "teacher_of"), 2),
    uneven=["--set", "stage2.frames_per_batch=3", "--run", "other"],
    judging=Judging(judge, lambda work: json.loads((work / "results" / "judged" / "scores.json").read_text())),
    export=ExportCommand(
        argv=lambda work: [*argv("export")(work), "--set", "export.image_towers=[]", "--set", "export.rounds=1"],
        point=(onnx_export, "check_parity"),
        folder=lambda work: work / "results" / "t" / "export",
    )
    if find_spec("onnxruntime")
    else None,
)
TEACHER = replace(STAGE1, argv=argv("teacher"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A work folder with the embedded world and its teacher."""
    work = finished(TEACHER, tmp_path_factory.mktemp("taught"))
    for path in STAGE1.run_folder(work).glob("teacher/step-*"):
        path.unlink()
    return work


@pytest.fixture(scope="module")
def prepared(taught, tmp_path_factory) -> Path:
    """The same with Stage 1's weights."""
    return finished(STAGE1, Path(shutil.copytree(taught, tmp_path_factory.mktemp("distilled") / "work")))


class TestGolden(GoldenCurves):
    commands, golden = [STAGE1, STAGE2], Path(__file__).parent / "golden_curves.json"


class TestStage1(FaultSuite):
    command, always = STAGE1, ()

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, taught) -> Path:
        return taught


class TestStage2(FaultSuite):
    command = STAGE2
