"""The README's quick start and its own-data section, run as they stand on frames of the world (its contract:
test_rq_contract.py; server and edge: test_wire_split.py; the evidence: test_rq_evidence.py)."""

from pathlib import Path

import pytest
from test_embedded_base import SMALL

from pillars_rq.base_config import PACKAGE_ROOT
from pillars_rq.kitti.layout import find_kitti
from pillars_rq.world import WorldSpec, write_world

CODES = (
    "dataset.world={train_frames: 4, val_frames: 2, test_frames: 0, workers: 0}", "dataset.val_frames=2",
    "model.n_codebook=1", "rq_model.latent_shape=[128, 128, 4]",
    "progressive_learning={embedding_schedule: [2, 4], embedding_stage_epochs: 1, warmup_epochs: 0}",
    "training={num_workers: 0, batch_size: 2, lloyd_passes: 1, pool_frames: 2, object_repeats: 1}",
    "evaluation.baseline_frames=1",
)  # fmt: skip


def sets(settings) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def left(folder: Path, names: str) -> list[str]:
    """Those of the files that are not there."""
    return [name for name in names.split() if not (folder / name).exists()]


@pytest.mark.readme(
    "python train_pointpillars.py --config exp/base_embedded.yaml --run embedded",
    "python train_eval_rq.py --config exp/embedded.yaml",
    "python train_eval_rq.py --config exp/embedded.yaml --mode grid --rq_ckpt embedded_rq_logs/checkpoints/final.pth",
)
def test_the_quick_start(readme, tmp_path):
    base, codes, grid = readme
    (tmp_path / "exp").symlink_to(PACKAGE_ROOT / "exp")
    assert "EMBEDDED DATA" in base.run(tmp_path, *sets(SMALL))
    codes.run(tmp_path, *sets(CODES))
    assert not left(tmp_path / "embedded_rq_logs", """checkpoints/codebook_0_stage_1_best.pth
        checkpoints/codebook_0_stage_1_final.pth checkpoints/global_best.pth checkpoints/final.pth
        run.json config.yaml log.txt metrics.jsonl tensorboard report.html""")  # fmt: skip
    grid.run(tmp_path, *sets(CODES))
    assert not left(tmp_path / "embedded_rq_logs-grid", "grid.json grid.png report.html cells figures")


@pytest.mark.readme(
    "python prepare_kitti.py --data_root datasets --validate", "python prepare_kitti.py --data_root datasets"
)
def test_a_root_is_checked_and_prepared(readme, tmp_path):
    root = write_world(tmp_path / "datasets/kitti", WorldSpec(train_frames=2, val_frames=1, test_frames=1))
    check, prepare = readme
    check.run(tmp_path, "--only_present")
    assert not (root / "kitti_infos_train.json").exists()
    prepare.run(tmp_path, "--only_present")
    assert not left(root, "kitti_infos_train.json kitti_infos_val.json kitti_dbinfos_train.json kitti_gt_database")


@pytest.mark.readme("python -m pillars_rq.world data/world --train-frames 20 --val-frames 10")
def test_a_world_is_written(readme, tmp_path):
    (line,) = readme
    line.run(tmp_path, "--train-frames", "1", "--val-frames", "1", "--test-frames", "0")
    assert len(list(find_kitti(tmp_path / "data/world").path.glob("training/velodyne/*.bin"))) == 2
