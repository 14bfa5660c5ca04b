"""MSP: its formula and bounds, widths, and its place in the neck."""

import pytest
import torch
from llvip_model_samples import build

from llvip_macl.models.msp import MSPReweight
from shared.errors import ConfigError


def level(c=16, seed=0):
    return torch.randn(2, c, 6, 5, generator=torch.Generator().manual_seed(seed))


def neck(**keys):
    torch.manual_seed(0)
    made = build({"type": "MSPFPN", "in_channels": [4, 8], "out_channels": 16, "num_outs": 3, **keys})
    made.init_weights()
    return made


def backbone_levels():
    return torch.randn(2, 4, 12, 10), torch.randn(2, 8, 6, 5)


def test_it_is_the_formula():
    module, f = MSPReweight(channels=16), level()
    conv_a, conv_b = module.attend.conv_a, module.attend.conv_b
    expected = f * (1 + torch.sigmoid(torch.tensor(0.5)) * torch.sigmoid(conv_a(f) + conv_b(f)))
    torch.testing.assert_close(module(f), expected)


@pytest.mark.parametrize("keys", [{}, {"reduction": 4}, {"channels": 8}, {"channels": 32}, {"attention": "cbam"}])
def test_every_variant_keeps_the_shape_and_the_gain_s_bounds(keys):
    module, f = MSPReweight(in_channels=16, **{"channels": 16, **keys}), level()
    gain = module(f) / f
    assert gain.shape == f.shape and (gain >= 1 - 1e-5).all() and (gain <= 1.6225 + 1e-5).all()


@pytest.mark.parametrize("keys", [{}, {"reduction": 4}, {"attention": "cbam"}])
def test_every_parameter_is_saved_and_gets_a_gradient(keys):
    module = MSPReweight(channels=16, **keys)
    module(level()).square().sum().backward()
    names = dict(module.named_parameters())
    assert set(names) == set(module.state_dict()) and "alpha" in names
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in names.values())


def test_it_becomes_the_identity_as_alpha_falls():
    f = level()
    distances = [(MSPReweight(channels=16, alpha=alpha)(f) - f).abs().max() for alpha in (0.5, -5.0, -100.0)]
    assert distances[0] > distances[1] > distances[2] == 0


def test_reduction_narrows_the_attention():
    assert MSPReweight(channels=16, reduction=4).attend.conv_a[0].weight.shape == (4, 16, 1, 1)
    assert MSPReweight(in_channels=16, channels=8).attend.conv_b[0].weight.shape == (8, 16, 1, 1)


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"channel": 16}, "did you mean `channels`"),
        ({"channels": 16, "reduction": 3}, "does not divide"),
        ({"attention": "se"}, "use one of conv, cbam"),
        ({"alpha_penalty": -1}, "alpha_penalty"),
    ],
)
def test_wrong_keys_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        MSPReweight(**keys)


def test_another_width_is_refused_when_it_arrives():
    with pytest.raises(ConfigError, match="the level has 8 channels"):
        MSPReweight(channels=16)(level(8))


def test_without_msp_the_neck_is_the_stock_one_and_takes_its_weights():
    plain = neck()
    stock = build({"type": "FPN", "in_channels": [4, 8], "out_channels": 16, "num_outs": 3})
    stock.load_state_dict(plain.state_dict())
    inputs = backbone_levels()
    assert all(torch.equal(a, b) for a, b in zip(plain(inputs), stock(inputs), strict=True))
    with_msp = neck(msp_module={"type": "MSPReweight", "channels": 16})
    missing, unexpected = with_msp.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("msp.") for name in missing)


def test_every_level_is_reweighted_by_a_module_of_its_own():
    made = neck(msp_module={"type": "MSPReweight", "channels": 8})
    assert len(made.msp) == 3 and len({id(module.alpha) for module in made.msp}) == 3
    inputs = backbone_levels()
    with torch.no_grad():
        made.msp[1].alpha.fill_(-100.0)
    reweighted, kept = made(inputs), super(type(made), made).forward(inputs)
    assert torch.equal(reweighted[1], kept[1])
    assert not torch.equal(reweighted[0], kept[0]) and not torch.equal(reweighted[2], kept[2])


def test_the_penalty_is_the_sum_of_squares_when_asked_for():
    msp = {"type": "MSPReweight", "channels": 16}
    assert neck().penalty() is None and neck(msp_module=msp).penalty() is None
    asked = neck(msp_module={**msp, "alpha_penalty": 1e-4})
    assert float(asked.penalty().detach()) == pytest.approx(3 * 0.25)
