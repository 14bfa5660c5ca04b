"""Cross attention: equal to the written-out formula, identity at the start, and without score matrices."""

import math
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from batvision_kd.models import create_binaural_attention_model
from batvision_kd.models.attention import CrossAttention, attend, sine_code

KINDS = ("mha", "reference")
MATERIALISING = "_scaled_dot_product_attention_math"


def written_out(query, key, value):
    """The formula, with its score matrix."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    return scores.softmax(-1) @ value


class Watch(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns, and which operations ran."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.names.add(function.__name__)
        tensors = found if isinstance(found, tuple | list) else (found,)
        self.largest = max([self.largest, *(x.numel() for x in tensors if isinstance(x, torch.Tensor))])
        return found


def level(channels=16, kind="mha", dense=True, awake=True):
    torch.manual_seed(0)
    module = CrossAttention(channels, kind, heads=4, dense=dense)
    for p in module.parameters():
        if awake and not p.any():
            torch.nn.init.normal_(p, std=0.3)
    return module


@pytest.mark.parametrize("value_width", [4, 32])
def test_equals_the_written_out_formula_forward_and_backward(value_width):
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 10, width, dtype=torch.float64, requires_grad=True) for width in (4, 4, value_width)]
    ours, reference = attend(*parts), written_out(*parts)
    torch.testing.assert_close(ours, reference)
    pull = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, parts, pull), torch.autograd.grad(reference, parts, pull), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_keys_of_an_eighth_are_scaled_by_their_own_width():
    """The usual fault divides by sqrt(C), 2.83 times too flat: written out here, it gives another answer."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 1, 6, 2), torch.randn(1, 1, 6, 2), torch.randn(1, 1, 6, 16)
    flat = (query @ key.transpose(-2, -1) / math.sqrt(16)).softmax(-1) @ value
    assert not torch.allclose(attend(query, key, value), flat, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False])
def test_starts_as_the_identity(kind, dense):
    maps = torch.randn(2, 16, 3, 5), torch.randn(2, 16, 3, 5)
    for before, after in zip(maps, level(kind=kind, dense=dense, awake=False)(*maps), strict=True):
        torch.testing.assert_close(after, before)


@pytest.mark.parametrize("kind", KINDS)
def test_along_time_a_row_hears_only_its_own_frequency(kind):
    left, right = torch.randn(1, 16, 4, 6), torch.randn(1, 16, 4, 6)
    for dense, touched in ((False, [2]), (True, [0, 1, 2, 3])):
        module = level(kind=kind, dense=dense)
        changed = right.clone()
        changed[:, :, 2] = torch.randn(16, 6)
        moved = (module(left, changed)[0] - module(left, right)[0]).abs().amax((0, 1, 3)) > 1e-6
        assert moved.nonzero().flatten().tolist() == touched


@pytest.mark.parametrize("kind", KINDS)
def test_rows_attended_alone_equal_maps_of_one_row(kind):
    """Along time is dense attention over each row by itself, but for the row's place in the code: row 0 of each."""
    module = level(kind=kind, dense=False)
    left, right = torch.randn(2, 16, 3, 5), torch.randn(2, 16, 3, 5)
    whole = module(left, right)
    module.dense = True
    for a, b in zip(whole, module(left[:, :, :1], right[:, :, :1]), strict=True):
        torch.testing.assert_close(a[:, :, :1], b)


@pytest.mark.parametrize("kind", KINDS)
def test_position_is_heard(kind):
    """Without a code, attention does not care where the other ear's tokens lie."""
    module, left, right = level(kind=kind), torch.randn(1, 16, 3, 8), torch.randn(1, 16, 3, 8)
    assert not torch.allclose(module(left, right)[0], module(left, right.roll(1, -1))[0], atol=1e-4)


def test_the_reference_uses_one_set_for_both_directions():
    module, left, right = level(kind="reference"), torch.randn(1, 16, 3, 4), torch.randn(1, 16, 3, 4)
    for a, b in zip(module(left, right), reversed(module(right, left)), strict=True):
        torch.testing.assert_close(a, b)


def test_the_code_tells_all_places_apart():
    code = sine_code(12, 16, 8).flatten(0, 1)
    assert code.shape == (192, 8)
    assert (torch.cdist(code, code) + 9 * torch.eye(192)).min() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_all_levels_at_256_px_never_make_a_score_matrix(kind):
    """x2 has 16,384 tokens; a matrix of scores would have 268 million entries, at x3 17 million."""
    model = create_binaural_attention_model(8, attention_levels=[2, 3, 4, 5], attention=kind)
    with Watch() as watch:
        model(torch.rand(1, 2, 256, 256))  # with gradients on: which kernel runs is decided here
    assert watch.largest < 4096**2
    assert not any(MATERIALISING in name for name in watch.names)
    assert any("flash" in name for name in watch.names)


def test_the_watch_sees_a_score_matrix():
    query = torch.randn(1, 1, 256, 4)
    with Watch() as watch:
        written_out(query, query, query)
    assert watch.largest == 256**2


def test_dense_at_x2_runs_only_on_request_and_warns_in_gib():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cheap = create_binaural_attention_model(8, attention_levels=[1, 2, 3, 4, 5])
    assert [cheap.attention[f"x{n}"].dense for n in range(1, 6)] == [False, False, True, True, True]
    with pytest.warns(UserWarning, match=r"x2 over 16,384 tokens.* 1 GiB"):
        dense = create_binaural_attention_model(8, attention_levels=[2], dense_levels=[2, 3])
    assert dense.attention["x2"].dense
