"""The confidence map: it falls with disagreement, it means what it says, and a model that obeys the mirror is sure."""

import numpy as np
import pytest
import torch
from torch import nn

from batvision_kd.confidence import Calibration, calibrate, falling, is_correct, predict_with_disagreement, reliability
from batvision_kd.models import create_binaural_attention_model
from shared.errors import UserError


def planted(n=20_000, seed=0):
    """Disagreements, and verdicts that hold with probability exp(-u)."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(n, generator=g) * 3
    return u, torch.rand(n, generator=g) < torch.exp(-u)


class Mirrored(nn.Module):
    """Depth that the law holds for: left level on the left half, right level on the right half."""

    def forward(self, audio):
        left, right = (audio[:, ear : ear + 1].mean((2, 3), keepdim=True) + 1 for ear in (0, 1))
        return torch.cat([left.expand(-1, -1, 4, 3), right.expand(-1, -1, 4, 3)], dim=-1)


def test_a_model_that_obeys_the_mirror_never_disagrees():
    depth, u = predict_with_disagreement(Mirrored(), torch.rand(2, 2, 8, 8))
    assert depth.shape == u.shape == (2, 1, 4, 6) and not u.any()


def test_depth_is_the_plain_answer_and_disagreement_is_symmetric():
    torch.manual_seed(0)
    model, audio = create_binaural_attention_model(8, output_size=None).eval(), torch.rand(2, 2, 32, 32)
    depth, u = predict_with_disagreement(model, audio)
    torch.testing.assert_close(depth, model(audio))
    torch.testing.assert_close(predict_with_disagreement(model, audio.flip(1))[1], u.flip(-1))
    assert u.max() > 0


def test_more_channels_need_the_swap_that_knows_them():
    with pytest.raises(ValueError, match="4 channels"):
        predict_with_disagreement(Mirrored(), torch.rand(1, 4, 8, 8))
    depth, _ = predict_with_disagreement(Mirrored(), torch.rand(1, 4, 8, 8), lambda x: x[:, [1, 0, 2, 3]])
    assert depth.shape == (1, 1, 4, 6)


def test_a_planted_law_is_found_and_holds_on_other_pixels():
    calibration = calibrate(*planted(seed=0))
    u = torch.linspace(0, 3, 50)
    assert (calibration(u) - torch.exp(-u)).abs().max() < 0.1
    other, correct = planted(seed=1)
    found = reliability(calibration(other), correct)
    assert found["calibration_error"] < 0.02
    assert found["kept_half"] > found["all"] + 0.2


def test_confidence_never_rises_with_disagreement():
    g = torch.Generator().manual_seed(3)
    calibration = calibrate(torch.rand(400, generator=g), torch.rand(400, generator=g) < 0.5)  # nothing to find
    assert (calibration(torch.linspace(0, 1, 99)).diff() <= 0).all()
    assert len(set(calibration.confidence)) < 20


def test_a_miscalibrated_confidence_is_seen():
    u, correct = planted()
    assert reliability(torch.full_like(u, 0.9), correct)["calibration_error"] == pytest.approx(
        0.9 - float(correct.float().mean()), abs=1e-6
    )


def test_falling_pools_neighbours_that_rise():
    assert falling([3, 1, 2, 0], [1, 1, 3, 1]).tolist() == [3, 1.75, 1.75, 0]
    assert falling([1, 2, 3], [1, 1, 2]).tolist() == [2.25] * 3
    assert falling([3, 2, 1], [1, 1, 1]).tolist() == [3, 2, 1]


def test_ties_and_one_value_make_a_calibration_too():
    u = torch.zeros(100)
    calibration = calibrate(u, torch.arange(100) < 30)
    assert torch.allclose(calibration(torch.tensor([0.0, 5.0])), torch.tensor(0.3))
    half = calibrate(torch.cat([u, u + 1]), torch.arange(200) < 100)
    assert half(torch.tensor([0.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.0]


def test_a_calibration_survives_json():
    calibration = calibrate(*planted(500))
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    u = torch.rand(2, 1, 4, 4)
    assert calibration(u).shape == u.shape and calibration(u).dtype == torch.float32


def test_correct_is_strictly_within_a_quarter_on_valid_pixels():
    depth = torch.tensor([1.0, 2.0, 4.0, 1.0]).view(1, 1, 2, 2)
    prediction = torch.tensor([1.25, 2.0, 3.0, 9.0]).view(1, 1, 2, 2)
    valid = torch.tensor([True, True, True, False]).view(1, 1, 2, 2)
    assert is_correct(prediction, depth, valid).tolist() == [False, True, False]


def test_too_few_pixels_are_refused():
    with pytest.raises(UserError, match="5 validation pixels"):
        calibrate(torch.rand(5), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one"):
        reliability(torch.empty(0), torch.empty(0, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"30 disagreements and 20"):
        calibrate(torch.rand(30), torch.ones(20, dtype=torch.bool))


def test_half_is_the_surer_half():
    found = reliability(torch.tensor([0.9, 0.8, 0.2, 0.1]), torch.tensor([True, True, False, False]))
    assert found["kept_half"] == 1 and found["all"] == 0.5
    assert np.isclose(sum(row["pixels"] for row in found["table"]), 4)
