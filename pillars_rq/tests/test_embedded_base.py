"""train_pointpillars.py from nothing: without a root it writes its world, says so, trains, and marks what it leaves."""

import contextlib
import io
import json

import pytest

from pillars_rq import base_training
from pillars_rq.base_config import PACKAGE_ROOT
from pillars_rq.embedded import BANNER, MARK, embedded_root, world_folder
from pillars_rq.weights import load_base
from pillars_rq.world import WorldSpec
from shared.errors import DataError
from shared.run import World

SPEC = WorldSpec(train_frames=4, val_frames=2, test_frames=0)
SMALL = (
    "data.world={train_frames: 4, val_frames: 2, test_frames: 0, workers: 0}",
    "model.widths={pillar: 4, blocks: [4, 4, 4], layers: [0, 0, 0], neck: 4}",
    "training.epochs=1", "training.batch_size=2", "training.workers=0", "training.device=cpu",
)  # fmt: skip


def train(folder, name: str, *more: str) -> tuple[int, str]:
    """(exit code, what it said) of the preset, shrunk to two steps."""
    settings = (*SMALL, f"data.embedded_dir={folder / 'data'}", f"data.results_dir={folder / 'runs'}", *more)
    sets = [part for setting in settings for part in ("--set", setting)]
    preset = str(PACKAGE_ROOT / "exp/base_embedded.yaml")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = base_training.main(["--config", preset, "--run", name, *sets])
    return code, said.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, exit code, what it said) of the first command in an empty folder."""
    folder = tmp_path_factory.mktemp("fresh")
    return folder, *train(folder, "first")


def written(folder) -> dict[str, int]:
    """Every file of the world, and when it was written."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_fresh_folder_gets_its_world_its_weights_and_the_mark(trained):
    folder, code, said = trained
    run = folder / "runs/first"
    assert code == 0 and said.count(BANNER) == 1
    world = world_folder(folder / "data", SPEC)
    assert json.loads((world / "world.json").read_text())["spec"] == SPEC.as_json()
    assert json.loads((run / "run.json").read_text())["data"] == "embedded"
    assert json.loads((run / "scores.json").read_text())["mark"] == MARK
    base = load_base(run / "base.pth")
    assert base.record["mark"] == MARK
    assert set(base.record["scores"]["R40"]) == {"2d", "bev", "3d", "aos"}  # the world has images and calibration


def test_a_complete_world_is_used_again(trained):
    folder, *_ = trained
    before = written(folder / "data")
    code, said = train(folder, "second", "training.seed=1")
    assert code == 0 and BANNER in said and written(folder / "data") == before


def test_a_world_that_is_named_is_marked_too(trained):
    folder, *_ = trained
    code, said = train(folder, "named", f"data.dir={world_folder(folder / 'data', SPEC)}", "data.mark=mine")
    assert code == 0 and BANNER in said
    assert json.loads((folder / "runs/named/run.json").read_text())["data"] == "embedded"
    assert json.loads((folder / "runs/named/scores.json").read_text())["mark"] == MARK


@pytest.mark.fault(15)
def test_a_named_root_that_is_missing_is_never_replaced(tmp_path, capsys):
    code, said = train(tmp_path, "missing", f"data.dir={tmp_path / 'kitti'}")
    error = capsys.readouterr().err
    assert code == 2 and BANNER not in said and not list(tmp_path.iterdir())
    assert "data.dir" in error and str(tmp_path / "kitti") in error and "data.dir: null" in error


def test_a_preparation_that_was_cut_is_done_again(trained):
    """The database's index comes last; without it nothing of the preparation is trusted."""
    folder, *_ = trained
    root = embedded_root(folder / "data", SPEC, World())
    whole = {name: (root.path / name).read_bytes() for name in ("kitti_infos_val.json", "kitti_dbinfos_train.json")}
    (root.path / "kitti_dbinfos_train.json").unlink()
    (root.path / "kitti_infos_val.json").write_text("{}")
    embedded_root(folder / "data", SPEC, World())
    assert whole == {name: (root.path / name).read_bytes() for name in whole}


def test_only_the_main_process_writes(tmp_path):
    class Second(World):
        is_main = False

    root = embedded_root(tmp_path / "data", SPEC, Second())
    assert root.path == world_folder(tmp_path / "data", SPEC) and not list(tmp_path.iterdir())


def test_worlds_of_other_sizes_lie_beside_it_and_a_foreign_one_is_refused(tmp_path):
    assert world_folder(tmp_path, SPEC) != world_folder(tmp_path, WorldSpec(train_frames=4, val_frames=3))
    assert world_folder(tmp_path, SPEC) != world_folder(tmp_path, WorldSpec(1, 4, 2, 0))
    folder = world_folder(tmp_path, SPEC)
    folder.mkdir()
    (folder / "world.json").write_text('{"generator": 0, "spec": {}}')
    with pytest.raises(DataError, match="generator version"):
        embedded_root(tmp_path, SPEC, World())
