"""What a base detector's configuration refuses, where it says so, and what it leaves as it is."""

from pathlib import Path

import pytest
import torch

from pillars_rq.anchors import KITTI_CLASSES, make_anchors
from pillars_rq.base_config import PACKAGE_ROOT, BaseConfig
from pillars_rq.targets import assign_targets
from pillars_rq.world import WorldSpec
from shared.config import config_hash, load_config, to_yaml
from shared.errors import ConfigError

EMBEDDED = PACKAGE_ROOT / "exp/base_embedded.yaml"


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.classes=[]", "name at least one"),
        ("model.anchors={Car: {size_wlh_m: [1, 2, 3], z_bottom_m: 0, positive_iou: 0.3, negative_iou: 0.5}}",
         "negative <= positive"),
        ("model.anchors={Car: {size_wlh_m: [1, 0, 3], z_bottom_m: 0, positive_iou: 0.5, negative_iou: 0.3}}",
         "size_wlh_m"),
        ("model.anchors={Car: {size_wlh_m: [1, 2, 3]}}", "z_bottom_m"),
        ("model.grid.range_m=[0.0, 0.0, -3.0, 10.24, 10.0, 1.0]", "62.5 cells"),
        ("model.grid.voxel_m=[0.16, 0.0, 4.0]", "voxel_m"),
        ("model.widths.layers=[1, -1, 1]", "layers"),
        ("model.widths.blocks=[8, 8]", "blocks"),
        ("data.world.train_frames=0", "train_frames"),
        ("data.world.workers=-1", "workers"),
        ("data.world.frames=3", "data.world.val_frames|data.world.train_frames"),
        ("data.val_split=test", "val_split"),
        ("data.val_frames=0", "val_frames"),
        ("data.augment.flip_chance=1.5", "flip_chance"),
        ("data.augment.scale=[0.0, 1.0]", "scale"),
        ("training.lr=0", "training.lr"),
        ("training.batch_size=2.5", "batch_size"),
        ("training.keep=1", "keep"),
        ("training.device=tpu", "device"),
        ("training.loss.cls=-1", "cls"),
        ("training.code_weights=[1, 1, 1]", "code_weights"),
        ("training.betas=[0.9, 1.1]", "betas"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_by_name(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(BaseConfig, [], [setting])


@pytest.mark.fault(19)
def test_every_wrong_setting_is_told_at_once(tmp_path):
    (tmp_path / "mine.yaml").write_text("training:\n  epochs: many\ndata:\n  worlds: {}\n")
    with pytest.raises(ConfigError) as refusal:
        load_config(BaseConfig, [tmp_path / "mine.yaml"], ["training.lr=fast"])
    told = str(refusal.value)
    assert all(part in told for part in ("training.epochs", "many", "mine.yaml", "data.worlds", "training.lr", "fast"))


@pytest.mark.parametrize("files", [[], [EMBEDDED]])
def test_the_resolved_text_reads_back_equal(files, tmp_path):
    config = load_config(BaseConfig, files)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = load_config(BaseConfig, [tmp_path / "config.yaml"])
    assert again == config and config_hash(again) == config_hash(config)


def test_a_root_is_null_only_where_the_embedded_world_is_meant():
    assert BaseConfig().data.dir == Path("datasets") and load_config(BaseConfig, [EMBEDDED]).data.dir is None
    assert BaseConfig().data.world.spec() == WorldSpec()
    assert load_config(BaseConfig, [EMBEDDED]).data.world.spec().val_frames >= 200


def learnt_share(grid, classes, label: int) -> float:
    """Share of 200 boxes, placed and turned at random, that some anchor learns; all of the class's anchor size."""
    generator = torch.Generator().manual_seed(label)
    where = torch.rand(200, 3, generator=generator) * torch.tensor([38.0, 38.0, 6.28]) + torch.tensor([1.5, -19.0, 0])
    body = torch.tensor([classes[label].z_bottom_m, *classes[label].size_wlh_m]).expand(200, 4)
    boxes = torch.cat([where[:, :2], body, where[:, 2:]], 1)
    anchors, labels = make_anchors(grid, classes[label : label + 1]), torch.tensor([0])
    learnt = [
        assign_targets(anchors, [box[None]], [labels], classes[label : label + 1]).positive.any() for box in boxes
    ]
    return float(torch.stack(learnt).float().mean())


def test_the_embedded_anchors_reach_the_small_objects_that_the_published_thresholds_miss():
    model = load_config(BaseConfig, [EMBEDDED]).model
    grid, classes = model.build_grid(), model.build_classes()
    assert all(learnt_share(grid, classes, label) > 0.9 for label in range(3))
    assert learnt_share(grid, KITTI_CLASSES, 0) < 0.75 and learnt_share(grid, KITTI_CLASSES, 1) < 0.9
