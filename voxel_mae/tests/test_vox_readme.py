"""The README's other lines, run as they stand from a folder of their own (the note's two and those of tools/:
test_vox_contract.py)."""

import json
import pickle

import numpy as np
import pytest
import torch
from detector_samples import small_detector
from test_vox_transfer import as_openpcdet
from vox_samples import write_site


@pytest.mark.readme("python demo.py")
def test_the_demo(readme, tmp_path):
    write_site(tmp_path / "site", 4, 3)
    lists = tmp_path / "site/ImageSets"
    (lists / "pretrain.txt").write_text((lists / "train.txt").read_text())
    (line,) = readme
    out, settings = tmp_path / "output", ("DATA_CONFIG.DATA_PATH", tmp_path / "site")
    line.run(tmp_path, "--epochs", "1", "1", "--output_dir", out, "--out", out / "demo", "--set", *settings)
    names = ("report.html", "occupancy.png", "similarity.png", "maskings.png", "detections.png", "cloud.html")
    assert [name for name in names if not (tmp_path / "output/demo" / name).is_file()] == []


@pytest.mark.readme("python demo.py cloud.npy --html")
def test_one_cloud_is_looked_at(readme, tmp_path):
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(0, 5, (50, 4)).astype(np.float32))
    (line,) = readme
    assert "50 points" in line.run(tmp_path, "--out", "look")
    assert (tmp_path / "look/cloud.png").is_file() and (tmp_path / "look/cloud.html").is_file()


@pytest.mark.readme(
    "python -m voxel_mae.data.prepare data/site --make_splits 0.2",
    "python -m voxel_mae.data.pickles data/site/custom_infos_train.pkl",
)
def test_a_root_is_split_and_indexed_and_a_foreign_index_read(readme, tmp_path):
    site = tmp_path / "data/site"
    write_site(site, 4, 2)
    for path in (site / "ImageSets").iterdir():
        path.unlink()
    prepare, convert = readme
    prepare.run(tmp_path)
    infos = site / "custom_infos_train.json"
    assert infos.is_file() and (site / "custom_dbinfos_train.json").is_file()
    annos = {"name": np.array(["grader"]), "gt_boxes_lidar": np.zeros((1, 7)) + 1}
    frame = {"point_cloud": {"num_features": 3, "lidar_idx": "drive0_000"}, "annos": annos}
    infos.unlink()
    infos.with_suffix(".pkl").write_bytes(pickle.dumps([frame]))
    convert.run(tmp_path)
    assert "drive0_000" in infos.read_text()


@pytest.mark.readme("python -m voxel_mae.convert voxelnext.pth ours.pth")
def test_a_foreign_checkpoint_is_converted(readme, tmp_path):
    torch.save({"model_state": as_openpcdet(small_detector(), "spconv 2.x")}, tmp_path / "voxelnext.pth")
    (line,) = readme
    assert "spconv 2.x" in line.run(tmp_path)
    assert (tmp_path / "ours.pth").is_file() and (tmp_path / "ours.pth.json").is_file()


@pytest.mark.readme("python -m voxel_mae.world data/world --train-sequences 12 --val-sequences 4")
def test_a_world_is_written(readme, tmp_path):
    (line,) = readme
    line.run(tmp_path, "--train-sequences", "1", "--val-sequences", "1", "--unlabelled-sequences", "0", "--frames", "1",
             "--beams", "8", "--columns", "90", "--no-odd-frames", "--workers", "0")  # fmt: skip
    assert len(list((tmp_path / "data/world/points").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.readme("python -m voxel_mae.experiments --quick")
def test_the_quick_comparison(readme, tmp_path):
    (line,) = readme
    line.run(tmp_path, "--output_dir", tmp_path / "output", "--results_dir", tmp_path / "results")
    found = json.loads((tmp_path / "results/experiments_quick/experiments.json").read_text())["results"]
    assert found["verdict"]
