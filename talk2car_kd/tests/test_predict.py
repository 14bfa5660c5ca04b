"""predict.py: one image, one command, one box in both frames, and clear refusals."""

import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from shared.errors import CheckpointError, DataError, UserError
from talk2car_kd import single
from talk2car_kd.config import PACKAGE_ROOT
from talk2car_kd.images import IMAGENET_MEAN, IMAGENET_STD
from talk2car_kd.single import Grounder

COMMANDS = ["turn left behind the red car", "stop", "park next to the second truck on the right, then wait"]


@pytest.fixture(scope="module")
def grounder(tiny_run) -> Grounder:
    return Grounder.load(results=tiny_run.results)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (320, 180), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def image_file(tmp_path, image):
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def run(*arguments) -> int:
    return single.main([str(argument) for argument in arguments])


def test_the_grounder_gives_the_models_own_box(tiny_run, grounder, image):
    """Against the model called by hand: pixels resized and normalised by ImageNet, tokens of the tower."""
    found = grounder.ground(image, COMMANDS[0])
    h, w = tiny_run.config.stage2.input_hw
    pixels = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA) / 255
    pixels = torch.tensor((pixels - IMAGENET_MEAN) / IMAGENET_STD, dtype=torch.float32).permute(2, 0, 1)[None]
    text = tiny_run.teacher.read([COMMANDS[0]])[0]
    with torch.no_grad():
        cx, cy, bw, bh = tiny_run.model(pixels, text.states[None], token_ids=text.ids[None])["boxes_cxcywh"][0].tolist()
    left, top = max(cx - bw / 2, 0), max(cy - bh / 2, 0)
    width, height = min(cx + bw / 2, 1) - left, min(cy + bh / 2, 1) - top
    expected = np.array([left, top, width, height])
    np.testing.assert_allclose(found.box_image_px, expected * [320, 180, 320, 180], atol=0.02)
    np.testing.assert_allclose(found.box_frame_px, expected * [1600, 900, 1600, 900], atol=0.02)


def test_image_and_command_both_matter(grounder, image):
    boxes = {grounder.ground(image, command).box_frame_px for command in COMMANDS}
    assert len(boxes) > 1
    heat = grounder.ground(image, COMMANDS[0]).heat
    assert not np.allclose(heat, grounder.ground(image[:, ::-1].copy(), COMMANDS[0]).heat)


def test_the_drawn_picture_has_two_panels_and_the_mark(grounder, image):
    found = grounder.ground(image, COMMANDS[0])
    picture = grounder.draw(image, found)
    assert picture.width > 1.9 * 960  # the frame, and the heat beside it
    assert "embedded" in grounder.mark
    bare = Grounder(grounder.model, grounder.teacher, grounder.path, grounder.record, grounder.config)
    bare.mark = None
    assert np.any(np.asarray(bare.draw(image, found)) != np.asarray(picture))


def test_command_line(tiny_run, image_file, tmp_path, capsys):
    out = tmp_path / "answer.png"
    assert run("--image", image_file, "--command", COMMANDS[0], "--results", tiny_run.results, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "320x180" in printed and "1600x900" in printed and "embedded" in printed and str(out) in printed
    assert cv2.imread(str(out)) is not None


def test_the_script_runs_from_another_folder(tiny_run, image_file, tmp_path):
    command = [sys.executable, PACKAGE_ROOT / "predict.py", "--image", image_file, "--command", "stop"]
    done = subprocess.run(
        [*map(str, command), "--checkpoint", tiny_run.checkpoint], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "picture.png").is_file()


@pytest.mark.parametrize("command", ["", "  \n\t", "\u200b\u202e", "?!"])
def test_empty_command(tiny_run, image_file, capsys, command):
    assert run("--image", image_file, "--command", command, "--checkpoint", tiny_run.checkpoint) == 2
    assert "says nothing" in capsys.readouterr().err


def test_missing_and_broken_images(tiny_run, image_file, tmp_path, capsys):
    assert run("--image", tmp_path / "none.png", "--command", "stop", "--checkpoint", tiny_run.checkpoint) == 2
    assert "none.png: there is no such file" in capsys.readouterr().err
    image_file.write_bytes(image_file.read_bytes()[:500])
    assert run("--image", image_file, "--command", "stop", "--checkpoint", tiny_run.checkpoint) == 2
    assert "cut short" in capsys.readouterr().err


def test_no_checkpoint(image_file, tmp_path, capsys):
    assert run("--image", image_file, "--command", "stop", "--results", tmp_path) == 2
    assert "no talk2car_best.pth" in capsys.readouterr().err
    assert run("--image", image_file, "--command", "stop", "--checkpoint", tmp_path / "x.pth") == 2
    assert "x.pth does not exist" in capsys.readouterr().err


def test_nothing_is_written_on_failure(image_file, tmp_path):
    out = tmp_path / "out.png"
    assert run("--image", image_file, "--command", "stop", "--results", tmp_path, "--out", out) == 2
    assert not out.exists()


def test_out_must_be_a_png_in_a_folder_that_exists(tiny_run, image_file, tmp_path, capsys):
    given = ["--image", image_file, "--command", "stop", "--checkpoint", tiny_run.checkpoint, "--out"]
    assert run(*given, tmp_path / "a.gif") == 2
    assert "a.png" in capsys.readouterr().err
    assert run(*given, tmp_path / "nowhere" / "a.png") == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_moved_checkpoint_asks_for_its_teacher(tiny_run, tmp_path, image):
    for source in (tiny_run.checkpoint, tiny_run.checkpoint.with_name(tiny_run.checkpoint.name + ".json")):
        shutil.copy(source, tmp_path)
    moved = tmp_path / tiny_run.checkpoint.name
    with pytest.raises(CheckpointError, match="--teacher"):
        Grounder.load(moved)
    grounder = Grounder.load(moved, teacher=str(tiny_run.folder / "teacher"))
    assert (
        grounder.ground(image, "stop").box_frame_px
        == Grounder.load(tiny_run.checkpoint).ground(image, "stop").box_frame_px
    )


@pytest.mark.fault(10)
def test_another_teacher_is_refused(tiny_run, tmp_path):
    from talk2car_kd import embedded_teacher

    with torch.random.fork_rng():
        torch.manual_seed(1)
        recipe = tiny_run.config.teacher.train
        embedded_teacher.save_folder(embedded_teacher.new_model(recipe), recipe, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"teacher\.sha256"):
        Grounder.load(tiny_run.checkpoint, teacher=str(tmp_path / "other"))


def test_arrays_that_are_no_image(grounder):
    with pytest.raises(DataError, match="uint8 RGB"):
        grounder.ground(np.zeros((4, 4), np.uint8), "stop")
    with pytest.raises(UserError, match="says nothing"):
        grounder.ground(np.zeros((4, 4, 3), np.uint8), " ")
