"""Metrics of depth maps: hand values, laws, and what the protocols do at the borders of their masks."""

import math
from dataclasses import replace

import pytest
import torch

from batvision_kd.metrics import BANDS_M, METRICS, STRICT, DepthMeans, band_metrics, image_metrics

TINY = replace(STRICT, min_pixels=1)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, None, None]


def every(depth: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(depth, dtype=torch.bool)


def rooms(seed: int = 0, images: int = 6, side: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, depths, masks (some pixels invalid, stored as 0)."""
    random = torch.Generator().manual_seed(seed)
    depth = 0.5 + 9 * torch.rand((images, 1, side, side), generator=random)
    pred = depth * torch.exp(0.3 * torch.randn(depth.shape, generator=random))
    valid = torch.rand(depth.shape, generator=random) > 0.25
    return pred, depth * valid, valid


def test_image_a_by_hand():
    scores = image_metrics(row(1.25, 2, 3), row(1, 2, 4), every(row(1, 2, 4)), TINY)
    expected = {"abs_rel": 0.166667, "rmse": 0.595119, "mae": 0.416667, "log10": 0.073950, "delta1": 1 / 3,
                "delta2": 1, "delta3": 1, "sq_rel": 0.104167, "rmse_log": 0.210202}  # fmt: skip
    assert {name: scores[name].item() for name in expected} == pytest.approx(expected, abs=1e-6)


def test_both_images_by_hand():
    """Image by image 0.797560, over all pixels 0.782624: the two are not the same number."""
    valid = torch.tensor([[True, True, True], [True, True, False]])[:, None, None]
    pred = torch.tensor([[1.25, 2, 3], [1, 3, 7]])[:, None, None]
    depth = torch.tensor([[1.0, 2, 4], [2, 2, 0]])[:, None, None]
    scores = image_metrics(pred, depth, valid, TINY)
    assert scores["abs_rel"][1].item() == pytest.approx(0.5) and scores["rmse"][1].item() == pytest.approx(1)
    means = DepthMeans()
    means.update(scores)
    found = means.compute()
    assert found["rmse"] == pytest.approx(0.797560, abs=1e-6)
    assert found["pooled_rmse"] == pytest.approx(0.782624, abs=1e-6)


def test_the_truth_scores_perfectly():
    _, depth, valid = rooms()
    scores = image_metrics(depth + ~valid, depth, valid)
    best = {name: 1.0 if name.startswith("delta") else 0.0 for name in METRICS}
    assert {name: scores[name].max().item() for name in METRICS} == pytest.approx(best, abs=1e-12)


def test_what_lies_outside_the_mask_does_not_count():
    pred, depth, valid = rooms()
    before = image_metrics(pred, depth, valid)
    after = image_metrics(torch.where(valid, pred, 29.0), torch.where(valid, depth, 17.0), valid)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("protocol", ["strict", "min05", "official"])
def test_the_batch_size_changes_nothing(protocol):
    pred, depth, valid = rooms(images=7)
    totals = []
    for size in (1, 2, 7):
        means = DepthMeans()
        for start in range(0, 7, size):
            part = slice(start, start + size)
            means.update(image_metrics(pred[part], depth[part], valid[part], protocol))
        totals.append(means.compute())
    assert totals[0] == pytest.approx(totals[1], rel=1e-12) and totals[0] == pytest.approx(totals[2], rel=1e-12)


def test_scaling_both_by_k_scales_metres_and_leaves_ratios():
    pred, depth, valid = rooms()
    once = image_metrics(pred, depth, valid, max_depth_m=100)
    twice = image_metrics(2 * pred, 2 * depth, valid, max_depth_m=100)
    for name in ("rmse", "mae", "aligned_rmse"):
        torch.testing.assert_close(twice[name], 2 * once[name])
    for name in ("abs_rel", "log10", "delta1", "delta2", "silog", "scale_error"):
        torch.testing.assert_close(twice[name], once[name])


def test_a_wrong_scale_is_told_apart_from_a_wrong_shape():
    _, depth, valid = rooms()
    scores = image_metrics(depth * 1.5, depth, valid)
    torch.testing.assert_close(scores["scale_error"], torch.full((6,), math.log(1.5)).double(), rtol=0, atol=1e-6)
    assert scores["aligned_rmse"].max() < 1e-5 < scores["rmse"].min()
    assert scores["silog"].max() < 1e-6


def test_predictions_near_zero_are_kept_and_cost():
    """Leaving them out would flatter a bad model."""
    pred, depth, valid = rooms()
    bad = pred.clone()
    bad[:, :, 0] = 0.0
    assert (image_metrics(bad, depth, valid)["pixels"] == image_metrics(pred, depth, valid)["pixels"]).all()
    assert (image_metrics(bad, depth, valid)["log10"] > image_metrics(pred, depth, valid)["log10"]).all()


def test_strict_leaves_out_images_without_pixels_and_says_so():
    pred, depth, valid = rooms(images=3)
    valid[1] = False
    scores = image_metrics(pred, depth, valid)
    assert scores["counted"].tolist() == [True, False, True] and scores["rmse"][1] == 0
    means = DepthMeans()
    means.update(scores)
    alone = image_metrics(pred[[0, 2]], depth[[0, 2]], valid[[0, 2]])["rmse"].mean().item()
    assert means.compute()["rmse"] == pytest.approx(alone) and means.compute()["counted"] == pytest.approx(2 / 3)


def test_official_scores_an_empty_image_zero():
    pred, depth, valid = rooms(images=2)
    valid[1] = False
    means = DepthMeans()
    means.update(image_metrics(pred, depth, valid, "official"))
    alone = image_metrics(pred[:1], depth[:1], valid[:1], "official")["rmse"].item()
    assert means.compute()["rmse"] == pytest.approx(alone / 2)


def test_nothing_at_all_is_no_nan():
    pred, depth, valid = rooms(images=2)
    means = DepthMeans()
    means.update(image_metrics(pred, depth * 0, valid & False))
    assert means.compute() == {"counted": 0.0}


def test_strict_and_official_differ_at_the_far_end():
    """Strict leaves a 31 m pixel out; official clips it to 30 m and counts it."""
    depth = torch.full((1, 1, 4, 4), 2.0)
    depth[..., 0, 0] = 31.0
    pred = torch.full_like(depth, 2.0)
    assert image_metrics(pred, depth, every(depth))["pixels"].item() == 15
    official = image_metrics(pred, depth, every(depth), "official")
    assert official["pixels"].item() == 16 and official["rmse"].item() == pytest.approx(7.0)


def test_min05_begins_at_half_a_metre():
    depth = torch.linspace(0.2, 1.7, 16).reshape(1, 1, 4, 4)  # 0.2, 0.3, 0.4, 0.5, ...
    counts = {name: image_metrics(depth, depth, every(depth), name)["pixels"].item() for name in ("strict", "min05")}
    assert counts == {"strict": 16, "min05": 13}


def test_official_takes_a_zero_prediction_as_it_is():
    scores = image_metrics(row(0.0, 2), row(2, 2), every(row(2, 2)), "official")
    assert scores["log10"].item() == math.inf and scores["delta1"].item() == 0.5
    assert not any(values.isnan().any() for name, values in scores.items() if name != "counted")


def test_a_prediction_that_is_not_finite_is_an_error():
    pred, depth, valid = rooms()
    pred[3, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"1 pixels, images \[3\]"):
        image_metrics(pred, depth, valid)


def test_shapes_that_differ_are_refused():
    pred, depth, valid = rooms()
    with pytest.raises(ValueError, match="of one size"):
        image_metrics(pred[..., :-1], depth, valid)
    with pytest.raises(ValueError, match="unknown; choose one of strict"):
        image_metrics(pred, depth, valid, "loose")


def test_bands_split_the_pixels():
    pred, depth, valid = rooms(side=20)
    whole, bands = image_metrics(pred, depth, valid), band_metrics(pred, depth, valid)
    assert list(bands) == list(BANDS_M)
    torch.testing.assert_close(sum(b["pixels"] for b in bands.values()), whole["pixels"])
    squares = sum(b["rmse"] ** 2 * b["pixels"] for b in bands.values())
    torch.testing.assert_close(squares, whole["rmse"] ** 2 * whole["pixels"])


def test_a_band_without_pixels_is_not_counted():
    depth = torch.full((1, 1, 4, 4), 2.0)
    for protocol in ("strict", "official"):
        bands = band_metrics(depth, depth, every(depth), protocol)
        assert [bool(b["counted"]) for b in bands.values()] == [True, False, False]
