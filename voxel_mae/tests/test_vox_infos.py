"""Infos, ground-truth database, splits, the prepare command, and the converter of pickles."""

import json
import pickle
import shutil

import numpy as np
import pytest
from custom_root_samples import BOXES, CLASSES, RANGE_M, XYZI, filled, opened, write_root

from shared.errors import ConfigError, DataError
from voxel_mae.boxes import points_in_boxes
from voxel_mae.data import AugmentSettings, CustomRoot, PasteSettings
from voxel_mae.data.database import GroundTruthDatabase
from voxel_mae.data.infos import json_beside, read_infos
from voxel_mae.data.pickles import convert, read_pickle
from voxel_mae.data.pickles import main as convert_command
from voxel_mae.data.prepare import main as prepare_command
from voxel_mae.data.splits import label_budget, sequence_of, split_by_sequence

# --- infos and database ---


def test_infos_hold_what_the_folder_says(root):
    infos = read_infos(root / "custom_infos_pretrain.json")
    assert [info.frame_id for info in infos] == ["site0_000", "site0_001", "site1_000", "bare_000"]
    assert infos[0].points_in_boxes.tolist() == [40 + extra for extra in _scene_points_inside(root)]
    assert infos[3].labels is None
    assert infos[0].num_points == len(np.load(root / "points" / "site0_000.npy"))


def _scene_points_inside(root):
    boxes = np.array([box for _, box in BOXES["site0_000"]])
    return points_in_boxes(np.load(root / "points" / "site0_000.npy")[:3000], boxes).sum(0).tolist()


def test_the_name_of_a_pickle_stands_for_the_json_beside_it(root, caplog):
    caplog.set_level("INFO", "shared.run")
    assert json_beside(root / "custom_infos_train.pkl") == root / "custom_infos_train.json"
    assert "custom_infos_train.pkl stands for" in caplog.text
    (root / "custom_infos_train.json").unlink()
    with pytest.raises(DataError, match=r"custom_infos_train.json is missing: run `python -m voxel_mae.data.prepare"):
        json_beside(root / "custom_infos_train.pkl")
    (root / "custom_infos_train.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"Convert it once with `python -m voxel_mae.data.pickles .*infos_train.pkl`"):
        opened(root, infos=[root / "custom_infos_train.pkl"])


def test_the_database_holds_every_object_around_its_own_centre(root):
    database = GroundTruthDatabase(CustomRoot(root), CLASSES, XYZI)
    assert {name: len(found) for name, found in database.entries.items()} == {
        "dumptruck": 1, "excavator": 1, "grader": 0, "roller": 1}  # fmt: skip
    entry = database.entries["dumptruck"][0]
    assert (root / entry["path"]).name == "site0_000_dumptruck_0.bin"
    stored = np.fromfile(root / entry["path"], "<f4").reshape(-1, 4)
    assert len(stored) == entry["num_points_in_gt"]
    assert np.abs(stored[:, :3]).max() < 2.5
    drawn = database.draw("dumptruck", 5, np.random.default_rng(0))
    cloud = np.load(root / "points" / "site0_000.npy")
    inside = cloud[points_in_boxes(cloud, drawn.boxes)[:, 0]]
    np.testing.assert_allclose(drawn.clouds[0], inside, atol=1e-5)


def test_objects_with_few_points_or_of_other_frames_are_not_pasted(root):
    few = GroundTruthDatabase(CustomRoot(root), CLASSES, XYZI, min_points={"roller": 1000})
    assert len(few.entries["roller"]) == 0
    budget = GroundTruthDatabase(CustomRoot(root), CLASSES, XYZI, frame_ids=["site0_001"])
    assert [len(budget.entries[name]) for name in CLASSES] == [0, 1, 0, 0]


def test_a_label_budget_pastes_only_its_own_labels(root):
    (root / "ImageSets" / "few.txt").write_text("site0_001\nsite1_000\n")
    paste = AugmentSettings(paste=PasteSettings(dict.fromkeys(CLASSES, 5)))
    frames = opened(root, "few", training=True, augment=paste)
    assert set(frames[(0, 1)].labels.tolist()) == {2}


def test_the_commands_prepare_validate_and_split(tmp_path, capsys):
    folder = write_root(tmp_path / "root")
    for name in ("train", "val"):
        (folder / "ImageSets" / f"{name}.txt").unlink()
    (folder / "points" / "bare_000.npy").unlink()
    (folder / "ImageSets" / "pretrain.txt").unlink()
    assert prepare_command([str(folder), "--features", *XYZI, "--make_splits", "0.3"]) == 0
    said = capsys.readouterr().out
    assert "ground-truth database: " in said
    train, val = ((folder / "ImageSets" / f"{name}.txt").read_text().split() for name in ("train", "val"))
    assert sorted(train + val) == sorted(BOXES)
    assert not {sequence_of(one) for one in train} & {sequence_of(one) for one in val}
    limits = [str(value) for value in RANGE_M]
    assert prepare_command([str(folder), "--features", *XYZI, "--validate", "--range", *limits]) == 0
    assert "no problems" in capsys.readouterr().out
    assert prepare_command([str(folder), "--features", *XYZI, "--make_splits", "0.3"]) == 2
    assert "is there already" in capsys.readouterr().err


# --- splits ---


def test_splits_keep_sequences_whole():
    ids = [f"drive{d}_{n:03d}" for d in range(10) for n in range(7)]
    train, val = split_by_sequence(ids, 0.25, seed=3)
    assert sorted(train + val) == sorted(ids)
    assert len(val) == 21  # three drives are the fewest that hold a quarter
    assert not {sequence_of(one) for one in train} & {sequence_of(one) for one in val}
    assert split_by_sequence(ids, 0.25, seed=4)[1] != val
    with pytest.raises(ConfigError, match="1 sequence cannot be split"):
        split_by_sequence(ids[:7], 0.25, seed=0)


def test_budgets_are_nested_and_drawn_by_sequence():
    ids = [f"drive{d}_{n:03d}" for d in range(10) for n in range(10)]
    few, more, every = (label_budget(ids, share, seed=0) for share in (0.05, 0.2, 1.0))
    assert (len(few), len(more), every) == (5, 20, ids)
    assert set(few) < set(more)
    assert len({sequence_of(one) for one in more}) == 2
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        label_budget(ids, 0.0, seed=0)


# --- pickles ---


def pickled_infos(root):
    """What OpenPCDet writes, from memory of its layout."""
    infos = []
    for frame_id, objects in BOXES.items():
        annos = {"name": np.array([name for name, _ in objects]), "gt_boxes_lidar": np.array([b for _, b in objects])}
        annos["gt_boxes_lidar"] = annos["gt_boxes_lidar"].reshape(-1, 7)
        infos.append({"point_cloud": {"num_features": 4, "lidar_idx": frame_id}, "annos": annos})
    return infos


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_converter_reads_what_openpcdet_writes(root, capsys, protocol):
    path = root / "custom_infos_foreign.pkl"
    path.write_bytes(pickle.dumps(pickled_infos(root), protocol=protocol))
    assert convert_command([str(path)]) == 0
    infos = read_infos(path)
    assert [info.frame_id for info in infos] == list(BOXES)
    assert infos[0].labels.names.tolist() == ["dumptruck", "roller"]
    np.testing.assert_array_equal(infos[0].labels.boxes, [box for _, box in BOXES["site0_000"]])
    frames = opened(root, infos=[path])
    assert frames[0].labels.tolist() == [1, 4]


def test_the_converter_reads_a_database(root):
    entries = json.loads((root / "custom_dbinfos_train.json").read_text())
    foreign = {
        name: [{k: np.array(v) if k == "box3d_lidar" else v for k, v in e.items() if k != "frame_id"} for e in group]
        for name, group in entries.items()
    }
    path = root / "foreign.pkl"
    path.write_bytes(pickle.dumps(foreign))
    assert json.loads(convert(path).read_text()) == entries


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.fault(9)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("call", "named"), [(print, "builtins.print"), (eval, "builtins.eval"),
                                             (shutil.rmtree, "shutil.rmtree"), (np.save, "numpy.save")])  # fmt: skip
def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path, call, named, nested):
    canary = tmp_path / "canary"
    canary.mkdir()
    harm = Hostile(call, str(canary) if call is not eval else f"__import__('os').rmdir({str(canary)!r})")
    path = tmp_path / "custom_infos_train.pkl"
    path.write_bytes(pickle.dumps([{"annos": {"name": harm}}] if nested else harm))
    with pytest.raises(DataError, match=f"it asks for {named}"):
        read_pickle(path)
    assert canary.is_dir()
    assert convert_command([str(path)]) == 2


@pytest.mark.fault(15)
@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2])[:-3], pickle.dumps(7)])
def test_what_is_no_pickle_of_infos_is_refused(tmp_path, content):
    path = tmp_path / "custom_infos_train.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"custom_infos_train\.pkl"):
        convert(path)
    assert not path.with_suffix(".json").exists()


def test_pasted_clouds_of_the_samples_lie_in_their_boxes():
    box = np.array(BOXES["site0_000"][0][1])
    assert points_in_boxes(filled(box, 30), box[None]).all()
