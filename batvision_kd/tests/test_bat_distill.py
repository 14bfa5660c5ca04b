"""Distillation losses: regions, trust, feature comparisons and what they must not notice, the frozen teacher."""

import math

import pytest
import torch
import torch.nn.functional as F

from batvision_kd.losses import FeatureKD, FeatureTerms, flip_disagreement, response_kd, task_losses, teacher_confidence
from batvision_kd.losses.features import KINDS, USUAL_LEVELS, Standardiser, cka_loss
from batvision_kd.losses.response import KINDS as RESPONSES
from batvision_kd.losses.response import region_mask
from batvision_kd.models import create_binaural_attention_model, create_rgb_depth_model, feature_channels
from shared.errors import UserError
from shared.storage import tensors_sha256

CHANNELS = {"x4": 3, "x5": 5, "d1": 2}


def depths(seed=0, valid=0.7):
    """student, teacher, depth, valid."""
    g = torch.Generator().manual_seed(seed)
    student, teacher, depth = (torch.rand(2, 1, 6, 8, generator=g) * 5 + 0.2 for _ in range(3))
    return student, teacher, depth, torch.rand(2, 1, 6, 8, generator=g) < valid


def features(seed=0, batch=4, channels=CHANNELS, size=(3, 4)):
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, c, *size, generator=g) for name, c in channels.items()}


def feature_kd(kind, levels=("x4", "x5"), student=CHANNELS, teacher=CHANNELS):
    torch.manual_seed(0)
    return FeatureKD(kind, levels, student, teacher)


# --- response ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RESPONSES)
def test_agreement_costs_nothing(kind):
    _, teacher, depth, valid = depths()
    assert float(response_kd(teacher, teacher, depth, valid, kind=kind)) == 0


def test_hand_values():
    student, teacher = torch.tensor([1.0, 4.0]).view(1, 1, 1, 2), torch.tensor([2.0, 4.4]).view(1, 1, 1, 2)
    valid = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    far, near = math.log(2), math.log(1.1)
    expected = {"mse": (1 + 0.16) / 2, "l1": 0.7, "log_huber": (0.5 * (far - 0.25) + near**2 / 2) / 2}
    for kind, value in expected.items():
        assert float(response_kd(student, teacher, teacher, valid, kind=kind)) == pytest.approx(value, abs=1e-6)


def test_the_measurement_as_teacher_doubles_l1():
    student, _, depth, valid = depths()
    kd = response_kd(student, depth, depth, valid, kind="l1", region="valid")
    assert torch.equal(kd, task_losses(student, depth, valid)["l1"])


@pytest.mark.parametrize("region", ["valid", "invalid", "all"])
def test_only_the_region_counts(region):
    student, teacher, depth, valid = depths()
    mask = region_mask(valid, region)
    student.requires_grad_()
    response_kd(student, teacher, depth, valid, region=region).backward()
    assert torch.equal(student.grad != 0, mask)


@pytest.mark.fault(12)
@pytest.mark.parametrize("kind", RESPONSES)
def test_an_empty_region_gives_zero_with_finite_gradients(kind):
    student, teacher, depth, valid = depths()
    student.requires_grad_()
    loss = response_kd(student, teacher, depth, torch.ones_like(valid), kind=kind, region="invalid")
    loss.backward()
    assert float(loss.detach()) == 0 and student.grad.isfinite().all() and not student.grad.any()


def test_holes_do_not_depend_on_what_stands_in_them():
    student, teacher, depth, valid = depths()
    weights = [teacher_confidence(teacher, torch.where(valid, depth, x), valid) for x in (0.0, math.nan)]
    assert torch.equal(*weights)
    losses = [response_kd(student, teacher, torch.where(valid, depth, x), valid, confidence=weights[0])
              for x in (0.0, math.nan)]  # fmt: skip
    assert torch.equal(*losses) and losses[0].isfinite()


def test_trust_falls_with_the_error_and_with_the_disagreement():
    _, _, depth, _ = depths()
    valid = torch.ones_like(depth, dtype=torch.bool)
    assert torch.equal(teacher_confidence(depth, depth, valid), torch.ones_like(depth))
    torch.testing.assert_close(
        teacher_confidence(depth * math.exp(0.22), depth, valid), torch.full_like(depth, 1 / math.e)
    )
    wide = teacher_confidence(depth, depth, ~valid, uncertainty=torch.full_like(depth, 0.44))
    torch.testing.assert_close(wide, torch.full_like(depth, math.exp(-2)))
    assert torch.equal(teacher_confidence(9 * depth, depth, ~valid), torch.ones_like(depth))


def test_untrusted_pixels_pull_less_and_trust_has_no_gradient():
    student, teacher, depth, valid = depths()
    weights = torch.rand_like(depth, requires_grad=True)
    teacher.requires_grad_()
    loss = response_kd(student.requires_grad_(), teacher, depth, valid, kind="l1", confidence=weights)
    loss.backward()
    torch.testing.assert_close(loss, ((student - teacher).abs() * weights).mean())
    assert weights.grad is None and teacher.grad is None


def test_a_symmetric_teacher_does_not_disagree_with_its_mirror_image():
    depth = torch.rand(2, 1, 4, 6) + 1
    assert not flip_disagreement(depth, depth).any()
    torch.testing.assert_close(flip_disagreement(depth, 2 * depth), torch.full_like(depth, math.log(2)))


def test_bad_response_calls_are_refused():
    student, teacher, depth, valid = depths()
    with pytest.raises(UserError, match=r"'holes'.*valid, invalid, all"):
        response_kd(student, teacher, depth, valid, region="holes")
    with pytest.raises(UserError, match=r"'kl'.*log_huber"):
        response_kd(student, teacher, depth, valid, kind="kl")
    with pytest.raises(ValueError, match="different shapes"):
        response_kd(student, teacher[:, 0], depth, valid)


# --- features ---------------------------------------------------------------------------------------------------------


def test_mse_raw_is_the_sum_of_the_original_recipe():
    student, teacher = features(0), features(1)
    expected = sum(F.mse_loss(student[name], teacher[name]) for name in ("x4", "x5"))
    torch.testing.assert_close(feature_kd("mse_raw")(student, teacher), expected)


def test_cosine_is_zero_where_the_projection_points_the_same_way():
    module = feature_kd("cosine")
    for projector in module.projectors.values():
        torch.nn.init.dirac_(projector.weight)
        torch.nn.init.zeros_(projector.bias)
    student = features()
    assert float(module(student, {name: 3 * x for name, x in student.items()})) == pytest.approx(0, abs=1e-6)
    assert float(module(student, {name: -x for name, x in student.items()})) == pytest.approx(2, abs=1e-6)


def test_cosine_survives_pixels_of_zeros():
    student = {name: x.requires_grad_() for name, x in features().items()}
    module = feature_kd("cosine")
    module(student, {name: torch.zeros_like(x) for name, x in student.items()}).backward()
    assert all(x.grad.isfinite().all() for name, x in student.items() if name != "d1")


def test_stats_is_zero_when_the_projection_has_the_standardised_maps_statistics():
    module, teacher = feature_kd("stats").eval(), features(1)  # eval: fresh statistics, mean 0 and deviation 1
    for projector in module.projectors.values():
        torch.nn.init.dirac_(projector.weight)
        torch.nn.init.zeros_(projector.bias)
    assert float(module(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    shifted = {name: x + 1 for name, x in teacher.items()}
    assert float(module(shifted, teacher)) == pytest.approx(1, abs=1e-4)


def test_the_standardiser_learns_the_training_sets_statistics_and_keeps_them():
    module, g = Standardiser(2), torch.Generator().manual_seed(0)
    scale, shift = torch.tensor([3.0, 0.5]).view(2, 1, 1), torch.tensor([-7.0, 2.0]).view(2, 1, 1)
    for _ in range(50):
        module(torch.randn(8, 2, 6, 6, generator=g) * scale + shift)
    kept = tensors_sha256(module.state_dict())
    y = module.eval()(torch.randn(200, 2, 6, 6, generator=g) * scale + shift)
    assert tensors_sha256(module.state_dict()) == kept
    assert y.mean((0, 2, 3)).abs().max() < 0.05 and (y.std((0, 2, 3)) - 1).abs().max() < 0.05


def test_cka_equals_its_definition():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, generator=g, dtype=torch.float64), torch.randn(6, 5, generator=g, dtype=torch.float64)
    a, b = x - x.mean(0), y - y.mean(0)
    defined = 1 - (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    torch.testing.assert_close(cka_loss(x, y), defined)


def test_cka_does_not_see_rotation_scale_or_shift():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=g)
    turned = 3 * x @ torch.linalg.qr(torch.randn(4, 4, generator=g))[0] + 5
    assert float(cka_loss(x, turned)) == pytest.approx(0, abs=1e-5)
    assert float(cka_loss(x, torch.randn(6, 4, generator=g))) > 0.1


@pytest.mark.fault(12)
@pytest.mark.parametrize("rows", [torch.randn(1, 4), torch.ones(3, 4)])
def test_cka_without_two_different_samples_is_zero_with_finite_gradients(rows):
    x = rows.clone().requires_grad_()
    loss = cka_loss(x, torch.randn(len(rows), 4))
    loss.backward()
    assert float(loss.detach()) == 0 and x.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_who_notices_permuted_pixels(kind):
    """stats and cka compare what survives a permutation of the pixels; mse_raw and cosine go pixel by pixel."""
    student, teacher = features(0), features(1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    shuffled = {name: x.flatten(2)[..., order].unflatten(2, x.shape[-2:]) for name, x in student.items()}
    module = feature_kd(kind).eval()
    same = torch.allclose(module(student, teacher), module(shuffled, teacher), atol=1e-5)
    assert same == (kind in ("stats", "cka"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_the_teacher(kind):
    student, teacher = ({name: x.requires_grad_() for name, x in features(seed).items()} for seed in (0, 1))
    module = feature_kd(kind)
    module(student, teacher).backward()
    assert all(teacher[name].grad is None for name in teacher)
    assert all(student[name].grad.any() for name in module.levels)
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("kind", ["cosine", "stats", "cka"])
def test_other_widths_are_projected_or_do_not_matter(kind):
    teacher = features(1, channels={"x4": 7, "x5": 2, "d1": 2})
    loss = feature_kd(kind, teacher={"x4": 7, "x5": 2, "d1": 2})(features(0), teacher)
    assert loss.isfinite() and loss > 0


def test_bad_feature_calls_are_refused():
    with pytest.raises(UserError, match=r"'gram'.*mse_raw, cosine, stats, cka"):
        feature_kd("gram")
    with pytest.raises(UserError, match=r"'x9'"):
        feature_kd("cka", levels=("x9",))
    with pytest.raises(UserError, match="x4: the student has 3 channels, the teacher 6"):
        feature_kd("mse_raw", teacher={**CHANNELS, "x4": 6})
    with pytest.raises(ValueError, match=r"cosine at x4.*\(6, 6\)"):
        feature_kd("cosine")(features(0), features(1, size=(6, 6)))


def test_usual_levels_exist_in_the_models_and_are_the_default():
    for kind, levels in USUAL_LEVELS.items():
        assert FeatureKD(kind, None, feature_channels(8), feature_channels(8)).levels == levels


def test_terms_are_named_by_their_kind():
    terms = FeatureTerms({"cosine": ("d1",), "cka": ("x4", "x5")}, CHANNELS, CHANNELS)
    assert set(terms(features(0), features(1))) == {"feat_cosine", "feat_cka"}
    assert terms.levels == ("d1", "x4", "x5")


# --- a distillation step, with the real networks ----------------------------------------------------------------------


@pytest.mark.fault(14)
def test_three_steps_leave_the_teacher_as_it_was_to_the_last_buffer():
    torch.manual_seed(0)
    teacher = create_rgb_depth_model(8, output_size=None).eval().requires_grad_(False)
    student = create_binaural_attention_model(8, output_size=None)
    channels = feature_channels(8)
    terms = FeatureTerms(dict.fromkeys(KINDS), channels, channels)
    learning = [*student.parameters(), *terms.parameters()]
    optimizer = torch.optim.AdamW(learning, 1e-3)
    before = tensors_sha256(teacher.state_dict()), tensors_sha256(student.state_dict())
    rgb, audio, depth = torch.rand(2, 3, 32, 32), torch.rand(2, 2, 32, 32), torch.rand(2, 1, 32, 32) + 1
    valid = torch.rand(2, 1, 32, 32) < 0.7
    for _ in range(3):
        with torch.no_grad():
            taught, theirs = teacher(rgb, return_features=True)
        depths, ours = student(audio, return_features=True)
        losses = {
            **task_losses(depths, depth, valid),
            "kd": response_kd(depths, taught, depth, valid),
            **terms(ours, theirs),
        }
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert tensors_sha256(teacher.state_dict()) == before[0]
    assert tensors_sha256(student.state_dict()) != before[1]
    assert all(p.grad is not None for p in learning) and all(p.grad is None for p in teacher.parameters())
