"""Alignment: hand values, laws, chance levels; the hook that measures it."""

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from llvip_macl.evaluation.alignment import (
    alignment_report,
    centroid_gap,
    legacy_tsne_ratio,
    modality_mixing,
    partner_found,
    probe_hits,
    scalars,
    unit_rows,
    unpaired_means,
)
from llvip_macl.evaluation.tsne import pairs_figure, tsne_plane
from shared.checkpoint import rng_state
from shared.metrics import recall_at_k


def rows(seed: int, pairs: int = 60, size: int = 8) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(pairs, size)))


# --- values ---


def test_cosines_by_hand():
    cosines = np.array([[1.0, 0.0, 0.5], [0.2, 0.4, 0.0], [0.0, 0.6, -1.0]])
    assert unpaired_means(cosines).tolist() == pytest.approx([0.25, 0.1, 0.3])
    eye = np.eye(3)
    report = alignment_report(eye, np.roll(eye, 1, 0))
    assert report["paired_cosine"].value == 0 and report["unpaired_cosine"].value == pytest.approx(0.5)
    assert report["cosine_gap"].value == pytest.approx(-0.5)


def test_retrieval_is_that_of_shared():
    scores = np.round(np.random.default_rng(0).normal(size=(40, 40)), 1)  # with ties
    shared = recall_at_k(torch.from_numpy(scores), torch.eye(40, dtype=torch.bool), (1, 5, 40))
    assert {k: partner_found(scores, k).mean() for k in (1, 5, 40)} == pytest.approx(shared)


def test_equal_sets_are_perfectly_aligned():
    vis = rows(0)
    report = alignment_report(vis, vis)
    assert report["paired_cosine"].value == pytest.approx(1)
    assert report["retrieval_at1_vis_to_ir"].value == report["retrieval_at1_ir_to_vis"].value == 1
    assert report["centroid_gap"].value == 0 and report["probe_accuracy"].value == 0.5


def test_unrelated_sets_are_at_chance():
    hits, probe = [], []
    for seed in range(8):
        report = alignment_report(rows(seed), rows(100 + seed))
        hits.append([report[f"retrieval_at{k}_vis_to_ir"].value for k in (1, 5)])
        probe.append(report["probe_accuracy"].value)
        assert report["retrieval_at1_vis_to_ir"].chance == pytest.approx(1 / 60)
        assert report["retrieval_at5_ir_to_vis"].chance == pytest.approx(5 / 60)
        assert report["cosine_gap"].low < 0 < report["cosine_gap"].high
    assert np.mean(hits, axis=0) == pytest.approx([1 / 60, 5 / 60], abs=0.025)
    assert np.mean(probe) == pytest.approx(0.5, abs=0.06)


def test_a_shift_between_modalities_is_seen_by_gap_mixing_and_probe():
    vis = rows(1)
    near, far = vis + 0.1 * rows(2), vis + np.eye(8)[0] * 3
    close, apart = alignment_report(vis, near), alignment_report(vis, far)
    assert apart["centroid_gap"].value > 0.7 > 0.2 > close["centroid_gap"].value
    assert apart["centroid_gap"].value > 3 * apart["centroid_gap"].chance
    assert apart["modality_mixing"].value < 0.8 < close["modality_mixing"].value
    assert apart["probe_accuracy"].value > 0.9 > 0.65 > close["probe_accuracy"].value
    assert close["retrieval_at1_vis_to_ir"].value > 0.9


def test_collapsed_embeddings_find_no_partner():
    """All embeddings equal: nothing can be told apart, and ties count against."""
    report = alignment_report(np.ones((10, 4)), np.ones((10, 4)))
    assert report["retrieval_at5_vis_to_ir"].value == 0 and report["cosine_gap"].value == pytest.approx(0)


def test_swapping_modalities_swaps_the_ways_and_keeps_the_rest():
    vis, ir = rows(3), unit_rows(rows(3) + 0.5 * rows(4))
    one, other = alignment_report(vis, ir), alignment_report(ir, vis)
    for name in ("paired_cosine", "unpaired_cosine", "cosine_gap", "centroid_gap", "modality_mixing"):
        assert one[name].value == pytest.approx(other[name].value)
    for k in (1, 5):
        assert one[f"retrieval_at{k}_vis_to_ir"].value == other[f"retrieval_at{k}_ir_to_vis"].value


def test_the_order_of_pairs_does_not_matter():
    vis, ir = rows(3), unit_rows(rows(3) + 0.7 * rows(4))
    order = np.random.default_rng(0).permutation(60)
    one, other = alignment_report(vis, ir), alignment_report(vis[order], ir[order])
    for name in set(one) - {"probe_accuracy", "centroid_gap"}:  # its folds, and its chance, follow the order
        assert one[name].value == pytest.approx(other[name].value)


def test_intervals_draw_whole_images():
    """Ten copies of a person are one image: the interval is as wide as without the copies."""
    vis, ir = rows(5, 12), unit_rows(rows(5, 12) + 0.7 * rows(6, 12))
    plain = alignment_report(vis, ir)["paired_cosine"]
    copied = alignment_report(np.repeat(vis, 10, 0), np.repeat(ir, 10, 0), np.repeat(np.arange(12), 10))[
        "paired_cosine"
    ]
    alone = alignment_report(np.repeat(vis, 10, 0), np.repeat(ir, 10, 0))["paired_cosine"]
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high))
    assert alone.high - alone.low < 0.5 * (plain.high - plain.low)


def test_the_probe_never_sees_the_other_half_of_a_pair():
    """Equal halves with opposite labels: a probe that had seen the twin would be fooled below one half."""
    vis = rows(7)
    assert probe_hits(vis, vis, np.arange(60)).mean() == 0.5


def test_two_pairs_of_one_image_have_no_probe_and_no_interval():
    report = alignment_report(np.eye(2), np.eye(2), [7, 7])
    assert "probe_accuracy" not in report and math.isnan(report["paired_cosine"].low)
    assert report["paired_cosine"].to_json() == {"value": pytest.approx(1), "low": None, "high": None, "chance": None}


@pytest.mark.parametrize(
    ("vis", "ir"), [(np.eye(3), np.eye(4)), (np.eye(1), np.eye(1)), (np.full((3, 2), np.nan), np.eye(3)[:, :2])]
)
def test_bad_shapes_and_nan_are_refused(vis, ir):
    with pytest.raises(ValueError, match="pairs"):
        alignment_report(vis, ir)


def test_centroid_gap_and_mixing_by_hand():
    assert centroid_gap(np.array([[1.0, 0], [0, 1]]), np.array([[-1.0, 0], [0, -1]])) == pytest.approx(math.sqrt(2))
    tight = np.array([[0.0, 0], [0, 0.001]])
    assert modality_mixing(tight, tight + 100) == pytest.approx(0, abs=1e-4)


# --- the old ratio ---


def test_the_legacy_ratio_is_half_when_mixed_and_grows_with_distance():
    points = np.random.default_rng(0).normal(size=(400, 2))
    mixed = legacy_tsne_ratio(points[:200], points[200:])
    assert mixed == pytest.approx(0.5, abs=0.03)
    assert (
        mixed < legacy_tsne_ratio(points[:200], points[200:] + 3) < legacy_tsne_ratio(points[:200], points[200:] + 30)
    )


def test_the_legacy_ratio_by_hand():
    vis, ir = np.array([[0.0, 0], [3, 4]]), np.array([[0.0, 0], [0, 1]])
    assert legacy_tsne_ratio(vis, ir) == pytest.approx((0 + 1 + 5 + math.hypot(3, 3)) / 4 / (5 + 1))
    assert math.isnan(legacy_tsne_ratio(np.zeros((2, 2)), np.zeros((2, 2))))


def test_tsne_repeats_leaves_generators_alone_and_states_the_direction():
    before = rng_state()
    one, other = tsne_plane(rows(0, 6), rows(1, 6), seed=3), tsne_plane(rows(0, 6), rows(1, 6), seed=3)
    np.testing.assert_array_equal(one, other)
    assert torch.equal(before["torch"], rng_state()["torch"])
    assert one[0].shape == one[1].shape == (6, 2)
    figure = pairs_figure(*one, "epoch 1", "Embedded")
    assert "0.5 = mixed, lower is better" in figure.axes[0].get_xlabel() and figure.get_suptitle() == "Embedded"
    with pytest.raises(ValueError, match="at least 4"):
        tsne_plane(rows(0, 3), rows(1, 3))


def test_scalars_are_finite_and_carry_the_chance():
    values = scalars(alignment_report(np.eye(2), np.eye(2)))
    assert values["retrieval_at1_chance"] == 0.5 and all(math.isfinite(value) for value in values.values())


# --- the hook ---


class TinyHead:
    """Embeds a person by the mean colour of its box."""

    macl_head: object | None = object()

    def pool(self, images, boxes):
        parts = zip(images, boxes, strict=True)
        return torch.stack([image[:, y:b, x:r].mean((1, 2)) for image, part in parts for x, y, r, b in part.int()])

    def paired_embeddings(self, vis, ir, boxes, boxes_ir):
        return self.pool(vis, boxes), self.pool(ir, boxes_ir)


class TinyDetector(nn.Module):
    """Two halves through layers that a training mode, or a draw, would change."""

    modality = "both"

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.frozen = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.BatchNorm1d(2)
        self.roi_head = TinyHead()

    def data_preprocessor(self, data: dict, training: bool) -> dict:
        halves = {"vis": torch.stack(data["inputs"]).float(), "ir": torch.stack(data["inputs_ir"]).float()}
        return {"inputs": halves, "data_samples": data["data_samples"]}

    def extract_pyramids(self, inputs: dict):
        torch.rand(3)
        return self.drop(self.norm(inputs["vis"])), self.drop(self.norm(inputs["ir"])), None


class TinyDataset:
    """16 images with a coloured person each (its box in stored pixels, images enlarged by two), and one to ignore."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 20, (3, 16, 16), generator=generator)
        image[:, 4:12, 4:12] = torch.randint(50, 250, (3, 1, 1), generator=generator)
        fields = {
            "img_path": f"{index}.jpg", "flip": False, "scale_factor": (2.0, 2.0),
            "instances": [{"bbox": [2, 2, 6, 6], "ignore_flag": 0}, {"bbox": [0, 0, 1, 1], "ignore_flag": 1}],
        }  # fmt: skip
        sample = SimpleNamespace(**fields, get=lambda name, default=None: fields.get(name, default))
        return {"inputs": image, "inputs_ir": 255 - image, "data_samples": sample}


class Runner(SimpleNamespace):
    """What the hook asks of a runner."""

    def __init__(self, work_dir: Path, epoch: int = 0, timestamp: str = "20260101_000000", **cfg) -> None:
        scalars: dict[str, float] = {}
        torch.manual_seed(0)
        super().__init__(
            work_dir=str(work_dir), epoch=epoch, timestamp=timestamp, cfg=cfg, model=TinyDetector(),
            logger=logging.getLogger("alignment-test"), scalars=scalars,
            val_dataloader=SimpleNamespace(dataset=TinyDataset()),
            message_hub=SimpleNamespace(update_scalar=scalars.__setitem__),
            visualizer=SimpleNamespace(add_scalars=lambda values, step: scalars.update(values, step=step)),
        )  # fmt: skip


@pytest.fixture(scope="module")
def hook_class():
    from llvip_macl.hooks.alignment import AlignmentHook

    return AlignmentHook


def measure(hook, runner: Runner, epochs: int) -> dict:
    hook.before_train(runner)
    for epoch in range(runner.epoch + 1, runner.epoch + epochs + 1):
        runner.epoch, metrics = epoch, {"coco/bbox_mAP": 0.5}
        hook.after_val_epoch(runner, metrics)
    return metrics


def test_the_hook_leaves_scalars_record_and_pictures(hook_class, tmp_path):
    runner = Runner(tmp_path / "work_dirs" / "stage1", embedded_world=True)
    Path(runner.work_dir).mkdir(parents=True)
    metrics = measure(hook_class(), runner, 2)
    assert runner.scalars["val/alignment/retrieval_at1_vis_to_ir"] == metrics["alignment/retrieval_at1_vis_to_ir"]
    assert runner.scalars["val/alignment/paired_cosine"] < 0.9 and "val/alignment/legacy_tsne_ratio" in runner.scalars
    record = json.loads((Path(runner.work_dir) / "alignment.json").read_text())
    assert [(entry["epoch"], entry["pairs"]) for entry in record] == [(1, 16), (2, 16)]
    assert record[0]["measures"] == record[1]["measures"]  # the same images, the same draws
    pictures = sorted(path.name for path in (tmp_path / "work_dirs" / "tsne_vis").iterdir())
    assert pictures == [
        name for n in (1, 2) for name in (f"tsne_epoch{n}.png", f"tsne_epoch{n}_stage1_20260101_000000.png")
    ]


def test_the_hook_disturbs_nothing(hook_class, tmp_path):
    runner, hook = Runner(tmp_path), hook_class(tsne=False)
    runner.model.frozen.eval()
    runner.model.drop.train()
    weights = {name: value.clone() for name, value in runner.model.state_dict().items()}
    modes, state = [module.training for module in runner.model.modules()], rng_state()
    measure(hook, runner, 1)
    assert all(torch.equal(value, weights[name]) for name, value in runner.model.state_dict().items())
    assert [module.training for module in runner.model.modules()] == modes
    after = rng_state()
    assert torch.equal(after["torch"], state["torch"]) and str(after) == str(state)


def test_another_runs_plain_picture_is_kept_and_ones_own_replaced(hook_class, tmp_path):
    folder = tmp_path / "work_dirs" / "tsne_vis"
    runs = [
        Runner(tmp_path / "work_dirs" / name, timestamp=stamp)
        for name, stamp in (("a", "t1"), ("b", "t2"), ("a", "t3"))
    ]
    for runner in runs:
        Path(runner.work_dir).mkdir(parents=True, exist_ok=True)
    measure(hook_class(), runs[0], 1)
    first = (folder / "tsne_epoch1.png").read_bytes()
    measure(hook_class(), runs[1], 1)
    assert (folder / "tsne_epoch1.png").read_bytes() == first
    measure(hook_class(seed=1), runs[2], 1)
    assert (folder / "tsne_epoch1.png").read_bytes() == (folder / "tsne_epoch1_a_t3.png").read_bytes() != first
    assert (folder / "tsne_epoch1_b_t2.png").exists() and (folder / "tsne_epoch1_a_t1.png").exists()


def test_a_resumed_run_keeps_its_past_and_a_fresh_one_starts_over(hook_class, tmp_path):
    def epochs_after(epoch: int, more: int) -> list[int]:
        runner = Runner(tmp_path, epoch=epoch)
        measure(hook_class(tsne=False), runner, more)
        return [entry["epoch"] for entry in json.loads((tmp_path / "alignment.json").read_text())]

    assert epochs_after(0, 3) == [1, 2, 3]
    assert epochs_after(2, 2) == [1, 2, 3, 4]  # resumed after epoch 2: epoch 3 is measured again, not twice
    assert epochs_after(0, 1) == [1]


def test_after_training_epochs_the_visualizer_gets_the_values(hook_class, tmp_path):
    runner, hook = Runner(tmp_path), hook_class(tsne=False, when="train", interval=2)
    hook.before_train(runner)
    hook.after_train_epoch(runner)
    assert not runner.scalars
    runner.epoch = 1
    hook.after_train_epoch(runner)
    assert runner.scalars["step"] == 2 and "alignment/cosine_gap" in runner.scalars


def test_without_a_contrastive_head_the_pooled_features_are_compared(hook_class, tmp_path):
    runner = Runner(tmp_path)
    runner.model.roi_head.macl_head = None
    measure(hook_class(tsne=False), runner, 1)
    assert json.loads((tmp_path / "alignment.json").read_text())[0]["space"] == "RoI features"


def test_a_detector_of_one_modality_is_left_alone(hook_class, tmp_path):
    runner = Runner(tmp_path)
    runner.model.__dict__["modality"] = "vis"
    measure(hook_class(), runner, 1)
    assert not runner.scalars and not list(tmp_path.iterdir())


def test_boxes_are_those_of_the_input_and_per_modality():
    from llvip_macl.evaluation.paired_rois import person_boxes
    from shared.errors import ConfigError

    instances = [{"bbox": [1, 2, 3, 4], "bbox_ir": [2, 2, 4, 4]}, {"bbox": [1, 2, 3, 4], "bbox_ir": [0, 0, 0, 0]},
                 {"bbox": [5, 5, 9, 9], "ignore_flag": 1}]  # fmt: skip
    fields = {"instances": instances, "scale_factor": (2.0, 3.0), "img_path": "a.jpg"}
    vis, ir = person_boxes(SimpleNamespace(**fields, get=lambda name, default=None: fields.get(name, default)))
    assert vis.tolist() == [[2, 6, 6, 12]] and ir.tolist() == [[4, 6, 8, 12]]
    flipped = SimpleNamespace(img_path="a.jpg", get=lambda name, default=None: True)
    with pytest.raises(ConfigError, match="take RandomFlip out"):
        person_boxes(flipped)
