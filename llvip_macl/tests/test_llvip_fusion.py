"""Fusion: the identity on equal pyramids, gradients to both streams, clear errors."""

import pytest
import torch

from llvip_macl.models.fusion import FUSIONS, build_fusion
from shared.errors import ConfigError


def pyramid(seed, levels=3, channels=4):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, channels, 16 >> i, 12 >> i, generator=g) for i in range(levels))


@pytest.mark.parametrize("kind", FUSIONS)
def test_equal_pyramids_come_out_unchanged_at_the_start(kind):
    fusion = build_fusion({"type": kind}, 4, 3)
    levels = pyramid(0)
    for fused, level in zip(fusion(levels, levels), levels, strict=True):
        torch.testing.assert_close(fused, level)


@pytest.mark.parametrize("kind", FUSIONS)
def test_it_starts_as_the_mean_and_reaches_both_streams_and_all_its_parameters(kind):
    fusion = build_fusion({"type": kind}, 4, 3)
    vis, ir = (tuple(level.requires_grad_() for level in pyramid(seed)) for seed in (0, 1))
    fused = fusion(vis, ir)
    for out, v, r in zip(fused, vis, ir, strict=True):
        torch.testing.assert_close(out, (v + r) / 2)
    sum((level * torch.randn_like(level)).sum() for level in fused).backward()
    for leaf in (*vis, *ir, *fusion.parameters()):
        assert leaf.grad is not None and leaf.grad.abs().sum() > 0


def test_a_gate_can_choose_one_stream_and_stays_between_the_two():
    gate = build_fusion({"type": "gate"}, 4, 1)
    vis, ir = pyramid(0, 1), pyramid(1, 1)
    with torch.no_grad():
        gate.convs[0].bias.fill_(50.0)
        torch.testing.assert_close(gate(vis, ir)[0], vis[0])
        gate.convs[0].bias.fill_(-50.0)
        torch.testing.assert_close(gate(vis, ir)[0], ir[0])
        torch.nn.init.normal_(gate.convs[0].weight)
        mixed = gate(vis, ir)[0]
    assert (mixed >= torch.minimum(vis[0], ir[0]) - 1e-6).all() and (mixed <= torch.maximum(vis[0], ir[0]) + 1e-6).all()


def test_a_concatenation_learns_weights_of_its_own_for_each_level_and_stream():
    concat = build_fusion({"type": "concat1x1"}, 4, 2)
    vis, ir = pyramid(0, 2), pyramid(1, 2)
    with torch.no_grad():
        concat.convs[1].weight[:, 4:] = 0.0
    first, second = concat(vis, ir)
    torch.testing.assert_close(first, (vis[0] + ir[0]) / 2)
    torch.testing.assert_close(second, vis[1] / 2)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"type": "sum"}, "type='sum'; use"), ({}, "type=None"), ({"type": "add", "scale": 2}, "unknown keys scale")],
)
def test_other_configs_are_refused_with_the_choices(config, message):
    with pytest.raises(ConfigError, match=message) as error:
        build_fusion(config, 4, 3)
    assert all(kind in str(error.value) for kind in FUSIONS)
