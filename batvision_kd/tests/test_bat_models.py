"""The two networks: exact sizes, shapes of all maps, positive heads with living gradients, fused student maps."""

import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from batvision_kd.models import (
    LEVELS,
    create_binaural_attention_model,
    create_rgb_depth_model,
    feature_channels,
)
from batvision_kd.models.heads import HEADS, resize, to_metres
from shared.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
REFERENCE = {"attention": "reference"}
COUNTS = {  # base channels: parameters, from the workspace's table of the published recipes
    16: (1_080_929, 1_942_577, 1_747_169, 1_821_475, 1_833_213, 1_244_077, 2_540_257),
    32: (4_318_401, 7_763_041, 6_978_497, 7_274_563, 7_321_077, 4_967_765, 10_137_537),
    64: (17_262_977, 31_037_633, 27_893_633, 29_075_587, 29_260_773, 19_853_989, 40_503_169),
}


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def student(base=8, size=None, **options):
    torch.manual_seed(0)
    return create_binaural_attention_model(base, output_size=size, **options)


def teacher(base=8, size=None, **options):
    torch.manual_seed(0)
    return create_rgb_depth_model(base, output_size=size, **options)


@pytest.mark.parametrize("base", COUNTS)
def test_parameter_counts_are_exact(base):
    with torch.device("meta"):
        found = (
            count(create_rgb_depth_model(base)),
            count(create_rgb_depth_model(base, bilinear=False)),
            count(create_binaural_attention_model(base, attention_levels=())),
            count(create_binaural_attention_model(base, **REFERENCE)),
            count(create_binaural_attention_model(base, attention_levels=[2, 3, 4, 5], **REFERENCE)),
            count(
                create_binaural_attention_model(base, attention_levels=[2, 3, 4, 5], shared_encoder=True, **REFERENCE)
            ),
            count(create_binaural_attention_model(base)),
        )
    assert found == COUNTS[base]


def expected_shapes(base, height, width, bilinear=True):
    sides = {"1": 1, "2": 2, "3": 4, "4": 8, "5": 16}
    return {
        name: (1, channels, height // sides[name[1]], width // sides[name[1]])
        for name, channels in feature_channels(base, bilinear).items()
    }


@pytest.mark.parametrize("base", [16, 32, 64])
@pytest.mark.parametrize("hw", [(128, 128), (256, 256), (144, 256)])
def test_nine_maps_of_one_shape_in_both_models(base, hw):
    with torch.device("meta"):
        pairs = ((teacher(base), 3), (student(base), 2))
        for model, channels in pairs:
            depth, features = model(torch.zeros(1, channels, *hw), return_features=True)
            assert depth.shape == (1, 1, *hw)
            assert {name: tuple(x.shape) for name, x in features.items()} == expected_shapes(base, *hw)


def test_the_contracts_shapes_at_base_64():
    found = expected_shapes(64, 256, 256)
    assert set(found) == set(LEVELS) == {"x1", "x2", "x3", "x4", "x5", "d1", "d2", "d3", "d4"}
    assert [found[f"x{n}"][1:] for n in range(1, 6)] == [
        (64, 256, 256), (128, 128, 128), (256, 64, 64), (512, 32, 32), (512, 16, 16)]  # fmt: skip
    assert [found[f"d{n}"][1:] for n in range(1, 5)] == [
        (64, 256, 256), (64, 128, 128), (128, 64, 64), (256, 32, 32)]  # fmt: skip


def test_real_forward_without_bilinear_upsampling():
    for model, channels in ((teacher(bilinear=False), 3), (student(bilinear=False), 2)):
        depth, features = model(torch.rand(1, channels, 32, 48), return_features=True)
        assert depth.shape == (1, 1, 32, 48)
        assert {name: tuple(x.shape) for name, x in features.items()} == expected_shapes(8, 32, 48, bilinear=False)


def test_the_plain_call_returns_depth_alone_and_the_same():
    model, audio = student().eval(), torch.rand(2, 2, 32, 48)
    depth = model(audio)
    assert torch.equal(depth, model(audio, return_features=True)[0])


@pytest.mark.parametrize(("size", "expected"), [(None, (32, 48)), (64, (64, 64)), ((24, 100), (24, 100))])
def test_output_size(size, expected):
    assert student(size=size)(torch.rand(1, 2, 32, 48)).shape[-2:] == expected
    assert teacher(size=size)(torch.rand(1, 3, 32, 48)).shape[-2:] == expected


def test_resizing_keeps_constants_and_averages_when_shrinking():
    assert torch.allclose(resize(torch.full((1, 1, 8, 8), 3.0), (5, 20)), torch.full((1, 1, 5, 20), 3.0))
    x = torch.rand(1, 1, 8, 8)
    assert torch.allclose(resize(x, (4, 4)), torch.nn.functional.avg_pool2d(x, 2))


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_positive_and_its_gradient_lives_at_minus_ten(kind):
    z = torch.tensor([-10.0, 0.0, 10.0], requires_grad=True)
    depth = to_metres(z, kind, 30.0)
    depth.sum().backward()
    assert (depth > 0).all() and (z.grad > 1e-7).all()
    assert (depth.diff() > 0).all()


def test_the_log_head_runs_from_ten_centimetres_to_the_largest_depth_in_equal_ratios():
    depth = to_metres(torch.tensor([-40.0, 0.0, 40.0]), "log", 30.0)
    assert depth.tolist() == pytest.approx([0.1, math.sqrt(0.1 * 30.0), 30.0], rel=1e-5)
    assert float(to_metres(torch.tensor([40.0]), "sigmoid", 12.0)) == pytest.approx(12.0)


def test_max_depth_and_head_change_the_models_answer():
    audio = torch.rand(1, 2, 32, 32)
    answers = [student(**options).eval()(audio) for options in ({}, {"max_depth": 12.0}, {"head": "sigmoid"})]
    assert not torch.allclose(answers[0], answers[1]) and not torch.allclose(answers[0], answers[2])


def test_depth_is_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        depth, features = student()(torch.rand(1, 2, 32, 32), return_features=True)
    assert depth.dtype == torch.float32 and features["d1"].dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{}, {"shared_encoder": True}, {"attention_levels": ()}, REFERENCE])
def test_every_map_answers_to_either_ear(options):
    model, audio = student(**options).eval(), torch.rand(1, 2, 32, 32)
    _, before = model(audio, return_features=True)
    for ear in (0, 1):
        other = audio.clone()
        other[:, ear] = torch.rand(32, 32)
        _, after = model(other, return_features=True)
        assert all(not torch.equal(before[name], after[name]) for name in LEVELS)


def test_every_parameter_of_the_student_learns():
    model = student(attention_levels=(2, 4, 5))
    wake(model)
    model(torch.rand(2, 2, 32, 32)).log().square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def wake(model) -> None:
    """Random values where the model starts at zero, so that nothing is hidden behind a closed gate."""
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)


def test_channels_that_join_both_ears_reach_both():
    model, audio = student(in_channels=4).eval(), torch.rand(1, 4, 32, 32)
    assert model.encoders[0].stages[0][0].in_channels == 3
    before = model._encode(audio)[0]
    audio[:, 3] += 1
    assert all(not torch.equal(a, b) for a, b in zip(before, model._encode(audio)[0], strict=True))


def test_the_fusion_is_a_convolution_of_the_joined_ears():
    fusion, left, right = student().eval().fusion[0], torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    joined = fusion.norm(fusion.conv(torch.cat([left, right], dim=1))).relu()
    torch.testing.assert_close(fusion(left, right), joined)


def test_the_shared_encoder_hears_both_ears_alike():
    model, mono = student(shared_encoder=True).eval(), torch.rand(1, 1, 32, 32)
    assert all(torch.allclose(left, right) for left, right in model._encode(mono.expand(-1, 2, -1, -1)))


@pytest.mark.parametrize("shape", [(1, 3, 250, 256), (1, 3, 8, 16), (1, 3, 0, 16)])
def test_a_size_that_does_not_divide_is_named(shape):
    with pytest.raises(UserError, match=rf"{shape[2]} x {shape[3]}.*divisible by 16"):
        teacher()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (teacher, {"base": 0}, "base_channels 0"),
        (teacher, {"head": "clamp"}, "clamp.*log, sigmoid, softplus"),
        (teacher, {"max_depth": 0.05}, "max_depth 0.05"),
        (teacher, {"max_depth": math.inf}, "max_depth inf"),
        (teacher, {"size": (1, 2, 3)}, "output_size"),
        (student, {"attention_levels": (4, 6)}, "6 is no level"),
        (student, {"attention": "dense"}, "'dense'.*mha, reference"),
        (student, {"in_channels": 1}, "in_channels 1"),
        (student, {"base": 3, "attention_levels": (1,)}, "3 channels with 8 heads"),
        (student, {"base": 4, "attention_levels": (1,), "attention": "reference"}, "divisible by 8"),
    ],
)
def test_what_makes_no_model_is_refused(make, options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_a_wrong_number_of_channels_is_named():
    with pytest.raises(UserError, match=r"\(1, 3, 32, 32\).*\(B,2,H,W\)"):
        student()(torch.zeros(1, 3, 32, 32))


def test_arguments_build_the_same_model_again():
    for model, create in ((student(attention_levels=[5, 3], head="softplus"), create_binaural_attention_model),
                          (teacher(size=(24, 40)), create_rgb_depth_model)):  # fmt: skip
        again = create(**model.arguments())
        assert again.arguments() == model.arguments()
        again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("levels", [(), ("d1",), ("d2", "d4"), ("x5",), ("x3", "x5", "d1"), ("x1", "x5")])
def test_the_shared_weight_moves_depth_and_every_named_map(levels):
    model, audio = student().eval(), torch.rand(1, 2, 32, 32)
    weight = model.shared_weight(levels)
    depth, features = model(audio, return_features=True)
    for x in (depth, *(features[name] for name in levels)):
        (gradient,) = torch.autograd.grad(x.square().mean(), weight, retain_graph=True)
        assert gradient.any()


def test_an_unknown_level_is_named():
    with pytest.raises(UserError, match="'x9'"):
        teacher().shared_weight(("x9",))


def test_the_notes_imports_work_in_the_checkout_and_no_wheel_holds_models():
    """In a subprocess started in the package's folder, as a person would; a wheel holds no `models`."""
    code = (
        "from models.rgb_depth_model import create_rgb_depth_model\n"
        "from models.binaural_attention_model import create_binaural_attention_model\n"
        "import torch\n"
        "model = create_rgb_depth_model(base_channels=4)\n"
        "depth, features = model(torch.rand(1, 3, 32, 32), return_features=True)\n"
        "print(tuple(depth.shape), sorted(features))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("(1, 1, 256, 256) ['d1', 'd2', 'd3', 'd4', 'x1'")
    wheel = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["batvision_kd"]
