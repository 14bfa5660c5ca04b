import json
from pathlib import Path

import numpy as np
import pytest
import torch
from base_samples import TINY, write_root

from pillars_rq import base_training
from pillars_rq.anchors import make_anchors
from pillars_rq.base_config import PACKAGE_ROOT, BaseConfig
from pillars_rq.base_training import positives_per_frame
from pillars_rq.batches import Collate
from pillars_rq.decode import Decoding, detect
from pillars_rq.detection_loss import WEIGHTS, detection_losses
from pillars_rq.grid import Grid
from pillars_rq.kitti.layout import find_kitti
from pillars_rq.kitti.prepare import prepare
from pillars_rq.network import PointPillars
from pillars_rq.targets import Targets, assign_targets
from pillars_rq.weights import load_base
from shared.config import load_config
from shared.errors import ConfigError, DataError
from shared.loop import Loop
from shared.run import World


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_root(tmp_path_factory.mktemp("kitti"))


@pytest.fixture
def command(root, tmp_path):
    """Runs the command in its own results folder; returns (exit code, run folder)."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(name: str, *more: str) -> tuple[int, Path]:
        settings = [f"data.dir={root}", f"data.results_dir={tmp_path}", *more]
        sets = [part for setting in settings for part in ("--set", setting)]
        return base_training.main(["--config", str(tmp_path / "tiny.yaml"), "--run", name, *sets]), tmp_path / name

    return run


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["split"] == "base/train"]


# --- configuration ---


def test_the_defaults_are_the_published_recipe():
    config = BaseConfig()
    assert config.model.build_grid() == Grid.kitti() and config.model.decoding() == Decoding()
    assert config.training.loss.model_dump() == dict(WEIGHTS)
    training = config.training
    assert (training.epochs, training.batch_size, training.lr, training.betas) == (160, 6, 2.5e-3, (0.95, 0.99))
    assert (training.weight_decay, training.rise, training.clip) == (0.01, 0.4, None)


def test_the_embedded_preset_is_narrow_and_coarse():
    config = load_config(BaseConfig, [PACKAGE_ROOT / "exp/base_embedded.yaml"])
    grid = config.model.build_grid()
    model = PointPillars(grid, config.model.build_classes(), config.model.build_widths())
    assert (grid.height, grid.width) == (128, 128)
    assert set(config.data.augment.paste_up_to) == set(config.model.classes)  # without them it learns half as much
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 0.9e6


def test_other_classes_bring_their_anchors():
    anchor = "{size_wlh_m: [0.4, 1.0, 0.7], z_bottom_m: -1.5, positive_iou: 0.5, negative_iou: 0.35}"
    config = load_config(BaseConfig, [], ["model.classes=[Dog, Car]", f"model.anchors={{Dog: {anchor}}}"])
    assert [one.size_wlh_m for one in config.model.build_classes()] == [(0.4, 1.0, 0.7), (1.6, 3.9, 1.56)]


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.classes=[Cat]", "'Cat' has no anchor"),
        ("model.classes=[Car, Car]", "each once"),
        ("model.grid.voxel_m=[0.3, 0.16, 4.0]", "not a whole number"),
        ("model.anchors={Dog: {size_wlh_m: [1, 1, 1], z_bottom_m: 0, positive_iou: 0.5, negative_iou: 0.3}}", "Dog"),
        ("training.epoch=3", "did you mean training.epochs"),
        ("training.rise=1", "less than 1"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(BaseConfig, [], [setting])


# --- batches ---


@pytest.mark.fault(15)
def test_collate_names_the_frame_of_bad_points_and_keeps_unlabelled_frames(root):
    config = load_config(BaseConfig, [], [f"data.dir={root}", "data.augment=null"])
    _, val = base_training.datasets(config, find_kitti(root))
    collate = Collate(Grid.kitti(), 100)
    frame = val[0]
    batch = collate([frame, frame])
    assert batch.pillars.batch_size == 2 and len(batch.boxes) == 2 and batch.labels[0].tolist() == [2, 2, 1, 0]
    object.__setattr__(frame, "boxes", None)
    assert collate([frame]).boxes is None and collate([frame]).to(torch.device("cpu")).labels is None
    frame.points[3, 1] = np.nan
    with pytest.raises(DataError, match=r"frame 000006: 1 of"):
        collate([frame])


# --- training ---


def test_a_few_steps_learn_a_batch(root):
    """Loss falls to a fraction, and the boxes of the frames are found."""
    config = load_config(BaseConfig, [], [f"data.dir={root}", "data.augment=null"])
    train, _ = base_training.datasets(config, find_kitti(root))
    grid = Grid((0.0, -5.12, -3.0, 10.24, 5.12, 1.0), (0.32, 0.32, 4.0), max_points=8)
    settings = load_config(
        BaseConfig, [], ["model.widths={pillar: 16, blocks: [16, 16, 16], layers: [1, 1, 0], neck: 16}"]
    )
    torch.manual_seed(0)
    model = PointPillars(grid, widths=settings.model.build_widths())
    anchors, batch = make_anchors(grid, model.classes), Collate(grid, 5000)([train[0], train[1]])
    targets = assign_targets(anchors, batch.boxes, batch.labels, model.classes)
    optimizer, values = torch.optim.AdamW(model.parameters(), lr=0.01), []
    for _ in range(60):
        terms = detection_losses(model(batch.pillars), targets)
        loss = sum(WEIGHTS[name] * term for name, term in terms.items())
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.2 * values[0]
    found = detect(model(batch.pillars), anchors)[0]  # batch statistics: the running ones need more steps
    cars = found.boxes[found.labels == 2][:2]
    truth = batch.boxes[0][:2].numpy()
    for box in truth:
        assert np.abs(cars[:, :2] - box[:2]).max(1).min() < 0.5


def test_the_command_leaves_weights_scores_and_a_record(command):
    code, run = command("a")
    assert code == 0 and len(losses(run)) == 6
    base = load_base(run / "base.pth")
    assert base.model.widths.blocks == (8, 8, 8) and base.record["mark"] == "a few made-up frames"
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores["R40"]) == {"bev", "3d"} and "overall" in scores["R40"]["3d"]  # no images: no 2D
    assert json.loads((run / "run.json").read_text())["stages"]["base"]["done"]
    before = (run / "base.pth").stat().st_mtime_ns
    assert command("a")[0] == 0 and (run / "base.pth").stat().st_mtime_ns == before  # done: nothing runs again


@pytest.mark.parametrize("step", [2, 4])
def test_a_cut_run_continues_bit_for_bit(command, monkeypatch, step):
    _, whole = command("whole")
    optimize = Loop._optimize

    def cut(loop):
        optimize(loop)
        if loop.steps_done == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_optimize", cut)
        assert command("cut")[0] == 130
    code, run = command("cut")
    assert code == 0 and losses(run) == losses(whole)
    ours, theirs = (load_base(path / "base.pth").model.state_dict() for path in (run, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_another_seed_trains_otherwise(command):
    assert losses(command("a")[1]) != losses(command("b", "training.seed=1")[1])


@pytest.mark.fault(15)
def test_frames_in_both_splits_are_refused(root, tmp_path, command, capsys):
    copy = write_root(tmp_path / "overlap", train=2, val=1)
    (copy / "ImageSets/val.txt").write_text("000001\n")
    prepare(find_kitti(copy), say=lambda text: None)
    code, _ = command("c", f"data.dir={copy}")
    assert code == 2 and "in both train and val" in capsys.readouterr().err


@pytest.mark.fault(15)
def test_a_root_that_is_not_there_is_an_error(command, capsys):
    code, _ = command("d", "data.dir=/nonexistent")
    assert code == 2 and "/nonexistent" in capsys.readouterr().err


class Pair(World):
    """One of two processes; `sum` adds what the other one would have brought."""

    def __init__(self, other: torch.Tensor):
        super().__init__(rank=0, size=2)
        object.__setattr__(self, "other", other)

    def sum(self, tensor):
        return tensor + self.other


@pytest.mark.parametrize(("mine", "frames"), [((3, 1), (1, 3)), ((0, 8), (2, 1)), ((0, 0), (1, 1))])
def test_losses_are_divided_by_the_positives_of_all_processes(mine, frames):
    """Weighted by frames, the processes' sums over their divisors are the sum over all positives."""

    def of(count: int) -> Targets:
        return Targets((torch.arange(10) >= count).long()[None], torch.zeros(1, 10, 7), torch.zeros(1, 10), 1)

    shares = []
    for own in (0, 1):
        other = torch.tensor([mine[1 - own], frames[1 - own]], dtype=torch.float32)
        divisor = positives_per_frame(Pair(other), of(mine[own]), frames[own])
        shares.append(5.0 / divisor * frames[own] / sum(frames))  # a sum of 5 on each
    assert float(sum(shares)) == pytest.approx(10 / max(1, sum(mine)))
    assert positives_per_frame(World(), of(4), 7) == 4
