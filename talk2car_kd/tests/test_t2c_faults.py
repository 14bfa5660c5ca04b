"""Both training stages under the faults of `shared.faults`."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from shared.faults import ExportCommand, FaultSuite, Judging, TrainingCommand, start
from shared.injections import metrics_of
from talk2car_kd import onnx_export, pipeline, teacher_cache
from talk2car_kd.stages import distill, ground

CONFIG = Path(__file__).parent / "faults.yaml"
GOLDEN = Path(__file__).parent / "golden_curves.json"
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
        accumulate=accumulate,
        teacher=lambda work: work / "results" / "t" / "teacher" / "open_clip_model.safetensors",
        uneven=(),
    )


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


def completed(command: TrainingCommand, work: Path, more: Sequence[str] = ()) -> Path:
    ended = start(command, work, more=more).wait()
    assert ended.code == 0, ended.output[-3000:]
    return work


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A work folder with the embedded world and its teacher."""
    work = tmp_path_factory.mktemp("taught") / "work"
    work.mkdir()
    completed(TEACHER, work)
    for path in STAGE1.run_folder(work).glob("teacher/step-*"):
        path.unlink()
    return work


@pytest.fixture(scope="module")
def distilled(taught, tmp_path_factory) -> Path:
    """The same with Stage 1's weights."""
    return completed(STAGE1, Path(shutil.copytree(taught, tmp_path_factory.mktemp("distilled") / "work")))


def losses(run: Path, split: str) -> list[float]:
    return [row["loss"] for row in metrics_of(run) if row["split"] == split]


@pytest.mark.parametrize("command", [STAGE1, STAGE2], ids=lambda command: command.name)
def test_the_first_20_steps_are_those_of_the_golden_curve(command, distilled):
    """To refresh after a change that is meant to move it: delete its entry, run twice, and look at the difference."""
    more = ["--set", "stage1.epochs=7", "--set", "stage2.epochs=7", "--set", "stage2.eval_every=7", "--run", "golden"]
    completed(command, distilled, more)
    curve = losses(distilled / "results" / "golden", f"{command.stage}/train")[:20]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if command.name not in golden:
        GOLDEN.write_text(json.dumps({**golden, command.name: curve}, indent=1) + "\n")
        pytest.fail(f"{GOLDEN.name} had no curve of {command.name}: written, check it and commit it")
    assert len(curve) == 20
    assert curve == pytest.approx(golden[command.name], rel=1e-3)


@pytest.mark.slow
class TestStage1(FaultSuite):
    command = STAGE1

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, taught) -> Path:
        return taught


class TestStage2(FaultSuite):
    command = STAGE2

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, distilled) -> Path:
        return distilled
