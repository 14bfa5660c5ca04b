"""Pairs end to end: the embedded world and the base configs through the loaders, and the pictures of browse_dataset."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from llvip_pair_samples import HW, PIPELINE, PLAIN, kaist_tree, llvip_tree

PROJECT = Path(__file__).parents[1]


# ---------------------------------------------------------------- the embedded world


def test_the_embedded_world_is_sound_and_loads_in_both_layouts(kinds, tmp_path):
    from llvip_macl.data.validate import validate
    from llvip_macl.world import ensure_world

    spec = {"pairs": (6, 6), "size_hw": (128, 160), "seed": 0, "workers": 0}
    root = ensure_world(tmp_path, layout="llvip", **spec)
    data = kinds["llvip"](data_root=str(root), pipeline=PIPELINE)
    assert len(data) == 6 and all(len(data[i]["data_samples"].metainfo["instances"]) < 99 for i in range(6))
    assert validate(root, "llvip") == []
    root = ensure_world(tmp_path, layout="kaist", misalignment_px=4, **spec)
    assert validate(root, "kaist") == []
    counts = set()
    for annotations in ("xml", "bbgt", "paired"):
        data = kinds["kaist"](
            data_root=str(root), ann_file="imageSets/train-all-02.txt", annotations=annotations, pipeline=PLAIN
        )
        boxes = [data[i]["data_samples"].gt_instances for i in range(6)]
        counts.add((annotations == "paired", sum(len(one) for one in boxes)))
        assert all(("bboxes_ir" in one) == (annotations == "paired") for one in boxes)
    assert len(counts) == 2  # xml and text agree
    test = kinds["kaist"](data_root=str(root), ann_file="KAIST_annotation.json", pipeline=PLAIN, test_mode=True)
    assert [test[i]["data_samples"].img_id for i in range(len(test))] == list(range(6))


# ---------------------------------------------------------------- configs and pictures


@pytest.mark.parametrize(("name", "tree"), [("llvip", llvip_tree), ("kaist", kaist_tree)])
def test_base_configs_build_and_hold_no_absolute_path(kinds, tmp_path, name, tree):
    from mmdet.registry import DATASETS
    from mmengine.config import Config

    from llvip_macl.data.sampler import PositionKeyedSampler  # noqa: F401 - registers

    path = PROJECT / "configs/_base_/datasets" / f"{name}.py"
    cfg = Config.fromfile(path)
    assert cfg.data_root is None and not [line for line in path.read_text().splitlines() if '"/' in line]
    root = tree(tmp_path / name)
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        assert loader.persistent_workers == (loader.num_workers > 0)
        data = DATASETS.build({**loader.dataset, "data_root": str(root)})
        item = data[0]
        assert item["inputs"].shape == item["inputs_ir"].shape and max(item["inputs"].shape) == 640
        assert (data.test_mode, loader.sampler.shuffle) == ((False, True) if split == "train" else (True, False))


def test_browse_writes_both_halves_with_their_boxes(kinds, llvip, tmp_path, capsys):
    config = tmp_path / "tiny.py"
    config.write_text(f"train_dataloader = dict(dataset=dict(type='LLVIPDataset', data_root=None, pipeline={PLAIN}))")
    command = runpy.run_path(str(PROJECT / "tools/analysis_tools/browse_dataset.py"))["main"]
    out = tmp_path / "out"
    arguments = [str(config), "--output-dir", str(out), "--number", "2", "--not-show"]
    assert command([*arguments, "--cfg-options", f"train_dataloader.dataset.data_root={llvip}"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["000001.png", "000002.png"]
    picture = cv2.imread(str(out / "000001.png"))
    assert picture.shape == (HW[0] + 18, 2 * HW[1], 3)
    green = (picture == (80, 220, 80)).all(-1)
    assert green[18 + 8, 10:30].all() and green[18 + 8, 80 + 10 : 80 + 30].all()  # the box's upper edge, in each half
    assert command([str(tmp_path / "none.py")]) == 2
    assert "none.py does not exist" in capsys.readouterr().err


def test_pictures_of_the_embedded_world_are_marked(kinds, llvip, tmp_path):
    from llvip_macl.data.browse import browse

    data = kinds["llvip"](data_root=str(llvip), pipeline=PLAIN)
    (real,) = browse(data, tmp_path / "real", number=1)
    (llvip / "world.json").write_text("{}")
    (marked,) = browse(data, tmp_path / "embedded", number=1)
    assert not np.array_equal(cv2.imread(str(real)), cv2.imread(str(marked)))
