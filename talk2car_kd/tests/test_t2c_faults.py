"""Both training stages under the faults of `shared.testing.faults`."""

import json
import math
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from shared import checkpoint
from shared.testing.faults import ExportCommand, FaultSuite, GoldenCurves, Judging, TrainingCommand, finished, start
from shared.testing.hostile_text import EVIL, EVIL_NAME, assert_only_text
from shared.testing.teacher_faults import TeacherFaults
from shared.testing.validation_faults import ValidationFaults
from shared.testing.worker_faults import TIMEOUT_S, WorkerFaults
from talk2car_kd import onnx_export, pipeline, teacher_cache
from talk2car_kd.coco import COCORegionTextDataset
from talk2car_kd.stages import distill, ground
from talk2car_kd.talk2car import Talk2CarDataset

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
TEST = replace(STAGE2, argv=lambda work: [*argv("test")(work), "--visualize", "--generate_predictions"])
TWO_WORKERS = [*STAGE2.workers(2), "--set", f"training.loader_timeout_s={TIMEOUT_S}"]


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


def edit(work: Path, name: str, change) -> None:
    """`change` the parsed content of a file of the work folder's world; its mark holds every file's size."""
    (world,) = (work / "embedded").glob("world-*")
    rewrite(world / name, change)
    rewrite(world / "world.json", lambda mark: mark["documents"].update({name: (world / name).stat().st_size}))


def rewrite(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def evil_token(token: str) -> str:
    return f"../../../{EVIL}{token}"


def evil_rows(content) -> None:
    for row in content["commands"]:
        row.update(command=EVIL, obj_name=EVIL, command_token=evil_token(row["command_token"]))


def evil_tags(content) -> None:
    for token in list(content):
        content[evil_token(token)] = {**content.pop(token), "cue": EVIL}


def files_outside(run: Path, folder: Path) -> set[Path]:
    """Those of a folder that are not the run's, except the children's logs."""
    return {path for path in folder.rglob("*") if run not in path.parents and path.suffix != ".log"}


class TestGolden(GoldenCurves):
    commands, golden = [STAGE1, STAGE2], Path(__file__).parent / "golden_curves.json"


class TestStage1(WorkerFaults, ValidationFaults, TeacherFaults, FaultSuite):
    command, always = STAGE1, ()
    teacher_made = (distill, "teacher_of")
    sample_reader, troubled_call = (COCORegionTextDataset, "__getitems__"), 2
    two_workers = TWO_WORKERS

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, taught) -> Path:
        return taught

    def validate_on(self, work, samples):
        def change(content):
            large = [row for row in content["annotations"] if min(row["bbox"][2:]) >= 8 and not row["iscrowd"]]
            content["annotations"] = large[:samples]

        edit(work, "coco/annotations/instances_val2017.json", change)


class TestStage2(WorkerFaults, TeacherFaults, FaultSuite):
    command = STAGE2
    teacher_made = (ground, "teacher_of")
    always = (*FaultSuite.always, "test_a_loading_worker_in_trouble_ends_the_run_and_names_the_sample[killed]")
    sample_reader, troubled_call = (Talk2CarDataset, "__getitems__"), 2
    two_workers = TWO_WORKERS

    @pytest.mark.fault(21)
    def test_text_that_is_code_stays_text_and_names_no_files(self, reference, tmp_path):
        """Classes, cues, commands and command tokens of the data, and the folder that they lie in."""
        work = Path(shutil.copytree(reference.work, tmp_path / EVIL_NAME))
        for split in ("val", "test"):
            edit(work, f"talk2car/commands/{split}_commands.json", evil_rows)
        edit(work, "talk2car/tags.json", evil_tags)
        before = files_outside(self.run(work), tmp_path)
        finished(TEST, work)
        assert_only_text(self.run(work) / "report.html", EVIL, EVIL_NAME)
        tokens = json.loads((self.run(work) / "predictions.json").read_text())
        assert tokens
        assert all(token.startswith("../../../") for token in tokens)
        assert files_outside(self.run(work), tmp_path) == before


# --- nothing to learn from --------------------------------------------------------------------------------------------

ANNOTATIONS = "coco/annotations/instances_train2017.json"
COMMANDS = "talk2car/commands/train_commands.json"
slow = pytest.mark.slow


def bare_images(work: Path) -> None:
    """8 of the 12 images are left with an object, as few as a batch may mix."""

    def change(content):
        kept = {image["id"] for image in content["images"][:8]}
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]

    edit(work, ANNOTATIONS, change)


def every_row(**fields):
    """Every object or command with these fields."""

    def change(content):
        for row in content["annotations" if "annotations" in content else "commands"]:
            row.update(fields)

    return change


def one_caption(work: Path) -> None:
    """Each batch is one class to L_clip: "a large car", whatever the image's own captions say."""
    edit(work, ANNOTATIONS, lambda content: every_row(category_id=content["categories"][0]["id"], area=9e4)(content))
    edit(work, "coco/annotations/captions_train2017.json", every_row(caption="a sunny day"))


def flat_boxes(every: int = 1):
    def change(content):
        for row in content["annotations"][::every]:
            row["bbox"][2] = 0

    return lambda work: edit(work, ANNOTATIONS, change)


def commands(**fields):
    return lambda work: edit(work, COMMANDS, every_row(**fields))


NOTHING = {
    "images without objects": (STAGE1, bare_images),
    "one caption for all": (STAGE1, one_caption),
    "boxes without area": (STAGE1, flat_boxes(every=3)),
    "commands without words": (STAGE2, commands(command="\u200b")),
    "one command for all": (STAGE2, commands(command="stop")),
    "objects of no size": (STAGE2, commands(**{"2d_box": [800, 400, 1e-6, 1e-6]})),
    "objects beside the frame": (STAGE2, commands(**{"2d_box": [1600.5, 400, 1, 1]})),  # clipped, none of it is left
}
ALWAYS = ("one caption for all", "objects beside the frame")


@pytest.mark.fault(12)
@pytest.mark.parametrize("what", [pytest.param(name, marks=() if name in ALWAYS else slow) for name in NOTHING])
def test_nothing_to_learn_from_is_trained_through(taught, prepared, tmp_path, what):
    """Every loss and gradient is finite (the Loop stops at one that is not), and the weights are written."""
    command, change = NOTHING[what]
    work = Path(shutil.copytree(taught if command is STAGE1 else prepared, tmp_path / "work"))
    change(work)
    steps = command.steps(command.run_folder(finished(command, work)))
    assert steps
    assert all(math.isfinite(value) for row in steps for value in row.values() if isinstance(value, float))
    assert all(row["grad_norm"] > 0 for row in steps)
    weights = checkpoint.load(command.run_folder(work) / command.weights)["model"]
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("command", "change", "more", "told"),
    [
        (STAGE1, flat_boxes(), (), "no object of the train split"),
        (STAGE1, lambda work: None, ("stage1.batch_size=1", "stage1.min_images=1"), "stage1.batch_size"),
        pytest.param(STAGE2, commands(command=" "), (), "'command' is empty", marks=slow),
        pytest.param(STAGE2, commands(**{"2d_box": None}), (), "'2d_box' is missing", marks=slow),
    ],
    ids=["no object", "a batch of one", "empty commands", "no boxes"],
)  # fmt: skip
def test_what_holds_nothing_at_all_is_refused(prepared, tmp_path, command, change, more, told):
    work = Path(shutil.copytree(prepared, tmp_path / "work"))
    change(work)
    sets = [part for setting in more for part in ("--set", setting)]
    ended = start(command, work, more=["--run", "other", *sets]).wait()
    assert ended.code == 2, ended.output[-3000:]
    assert told in ended.output
    assert "Traceback" not in ended.output
