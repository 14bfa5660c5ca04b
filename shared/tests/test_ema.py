"""The moving average: hand values, buffers, the model's own values back bit for bit, and its state."""

import pytest
import torch
from sample_net import Net, weights_of
from torch import nn

from shared.ema import Ema
from shared.errors import CheckpointError
from shared.testing.injections import differences


def train_a_little(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
    net(torch.randn(16, 3))  # moves the running statistics and the integer batch counter


def test_decay_zero_copies(net):
    ema = Ema(net, 0.0)
    train_a_little(net)
    ema.update(net)
    assert differences(ema.shadow, weights_of(net)) == []


def test_hand_values_with_warm_up():
    """Decays 0.1 and 2/11 from the warm-up, then the asked-for 0.2."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema, expected = Ema(model, 0.2), 0.0
    for value, decay in ((1.0, 0.1), (2.0, 2 / 11), (3.0, 0.2)):
        nn.init.constant_(model.weight, value)
        ema.update(model)
        expected = decay * expected + (1 - decay) * value
        assert ema.shadow["weight"].item() == pytest.approx(expected)


def test_buffers_are_averaged_or_copied(net):
    ema = Ema(net, 0.999)
    start = weights_of(net)
    train_a_little(net)
    ema.update(net)
    mean = "backbone.norm.running_mean"
    torch.testing.assert_close(ema.shadow[mean], 0.1 * start[mean] + 0.9 * net.state_dict()[mean])
    assert ema.shadow["backbone.norm.num_batches_tracked"].item() == 1


@pytest.mark.parametrize("failing", [False, True])
def test_applied_restores_bit_for_bit(net, failing):
    ema = Ema(net, 0.9)
    train_a_little(net)
    ema.update(net)
    train_a_little(net)
    before, addresses = weights_of(net), [p.data_ptr() for p in net.parameters()]
    try:
        with ema.applied(net):
            assert differences(weights_of(net), ema.shadow) == []
            net(torch.randn(4, 3))  # evaluation in train mode would move the buffers
            if failing:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert failing
    assert differences(weights_of(net), before) == []
    assert addresses == [p.data_ptr() for p in net.parameters()], "the optimizer still holds these tensors"
    assert all(p.requires_grad for p in net.parameters())


def test_half_precision_is_averaged_in_float32():
    model = nn.Linear(4, 4).bfloat16()
    ema = Ema(model, 0.5)
    assert ema.shadow["weight"].dtype == torch.float32
    ema.update(model)
    ema.copy_to(model)
    assert model.weight.dtype == torch.bfloat16


def test_ema_state_round_trip(net):
    ema = Ema(net, 0.9)
    train_a_little(net)
    ema.update(net)
    other = Ema(Net(), 0.5)
    other.load_state_dict(ema.state_dict())
    train_a_little(net)
    for average in (ema, other):
        average.update(net)
    assert differences(ema.shadow, other.shadow) == [] and other.state_dict()["updates"] == 2


@pytest.mark.fault(10)
def test_ema_refuses_another_model(net):
    with pytest.raises(ValueError, match="first difference"):
        Ema(net, 0.9).update(nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="only one of"):
        Ema(net, 0.9).load_state_dict(Ema(nn.Linear(2, 2), 0.9).state_dict())
    with pytest.raises(CheckpointError, match=r"'weight': shape \(2, 3\), not \(2, 2\)"):
        Ema(nn.Linear(2, 2), 0.9).load_state_dict(Ema(nn.Linear(3, 2), 0.9).state_dict())
    with pytest.raises(ValueError, match="decay 1"):
        Ema(net, 1)
