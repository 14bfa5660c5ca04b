"""MACLHead: its keys and their older spellings, safe norms, one row, the temperature's range, faults that show."""

import math
import warnings

import pytest
import torch
from torch import nn

from llvip_macl.models.macl_head import MACLHead
from llvip_macl.models.macl_loss import Negatives
from llvip_macl.models.projection import RowBatchNorm, projection
from shared.errors import ConfigError, NonFiniteError


def head(**keys):
    torch.manual_seed(0)
    return MACLHead(**{"in_dim": 16, "hidden_dims": (16, 8), "proj_dim": 8, **keys})


def features(k, seed=1, c=16):
    return tuple(torch.randn(k, c, generator=torch.Generator().manual_seed(seed + i)) for i in range(2))


def loss_of(model, k, **keywords):
    vis, ir = model.embed_pair(*features(k))
    return model(vis, ir, torch.arange(k), **keywords)


# --- keys


def test_the_note_s_keys_and_spellings_are_understood():
    old = {
        "in_dim": 256, "proj_dim": 128, "temperature": 0.1, "use_bn": True, "norm_type": None, "norm_groups": 32,
        "hidden_dims": (128, 64), "dropout": 0, "enable_domain_loss": False, "domain_weight": 0.1,
        "mmd_kernels": (1, 2, 4),
    }  # fmt: skip
    with pytest.warns(UserWarning, match="use_bn=True is ignored"):
        model = MACLHead(**old)
    assert float(model.tau.detach()) == pytest.approx(0.1)
    assert [tuple(layer.weight.shape) for layer in model.proj if isinstance(layer, nn.Linear)] == [
        (128, 256), (64, 128), (128, 64),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, nn.LayerNorm),
        ({"use_bn": False}, nn.LayerNorm),
        ({"use_bn": True}, RowBatchNorm),
        ({"norm_type": "BN"}, RowBatchNorm),
        ({"norm_type": "GN"}, nn.GroupNorm),
        ({"norm_type": None}, nn.ReLU),
    ],
)
def test_the_norm_is_the_one_asked_for(keys, kind):
    assert isinstance(head(**keys).proj[1], kind)


def test_the_larger_head_of_the_note():
    layers = projection(256, (256, 128), 64, norm_type="GN", norm_groups=32, dropout=0.1)
    assert [type(layer).__name__ for layer in layers] == [
        "Linear", "GroupNorm", "ReLU", "Dropout", "Linear", "ReLU", "Linear",
    ]  # fmt: skip
    assert [type(layer) for layer in projection(8, (), 4)] == [nn.Linear]


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"temperture": 0.1}, "no key `temperture`; did you mean `temperature`"),
        ({"hidden_dim": (8,)}, "did you mean `hidden_dims`"),
        ({"tau": 0.1, "temperature": 0.1}, "`tau` is set twice"),
        ({"tau": 2.0}, "tau=2.0 is outside 0.01..1.0"),
        ({"dropout": 1.0}, "dropout"),
        ({"multi_positive": "sum"}, "use one of average, mask"),
        ({"roi_source": "all"}, "use one of positive, gt"),
        ({"domain_type": "dann"}, "use one of mmd, reversal"),
        ({"norm_type": "IN"}, "use one of LN, GN, BN, None"),
        ({"proj_dim": 0}, "no channels"),
        ({"max_rows_per_image": 0}, "max_rows_per_image"),
    ],
)
def test_wrong_keys_and_values_are_refused_by_name(keys, message):
    with pytest.raises(ConfigError, match=message):
        head(**keys)


def test_groups_of_one_channel_are_refused_and_small_ones_draw_a_warning():
    with pytest.raises(ConfigError, match="groups of one channel"):
        head(norm_type="GN", norm_groups=16)
    with pytest.raises(ConfigError, match="does not divide"):
        head(norm_type="GN", norm_groups=5)
    with pytest.warns(UserWarning, match="groups of 2"):
        head(norm_type="GN", norm_groups=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MACLHead(norm_type="GN", norm_groups=32)  # groups of 4 among 128
        assert head(norm_type="GN").proj[1].num_groups == 2  # groups of 8


# --- one row


@pytest.mark.fault(12)
@pytest.mark.parametrize("norm", ["LN", "GN", "BN", None])
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_any_number_of_rows_trains(norm, k):
    model = head(norm_type=norm).train()
    terms = loss_of(model, k)
    terms["macl"].backward()
    assert terms["macl"].isfinite() and float(terms["rows"]) == k
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} hangs on nothing: DDP would wait for it"
    if k < 2:
        assert terms["macl"] == 0 and terms["chance"] == 0
    else:
        assert float(terms["chance"]) == pytest.approx(math.log(k))
        assert any(parameter.grad.any() for parameter in model.parameters())


def test_batchnorm_uses_running_statistics_for_one_row_and_for_that_call_only():
    norm = RowBatchNorm(3).train()
    many = torch.randn(10, 3) * 2 + 1
    norm(many)
    before = norm.running_mean.clone()
    row = torch.randn(1, 3)
    alone = norm(row)
    assert torch.equal(before, norm.running_mean) and norm.training
    torch.testing.assert_close(alone, norm.eval()(row))
    norm.train()(many)
    assert not torch.equal(before, norm.running_mean)
    assert norm.train()(torch.zeros(0, 3)).shape == (0, 3)


# --- temperature


def test_the_temperature_is_learnt_and_can_be_fixed():
    model = head()
    loss_of(model, 4)["macl"].backward()
    assert model.log_tau.grad != 0
    fixed = head(learnable_tau=False)
    loss_of(fixed, 4)["macl"].backward()
    assert fixed.log_tau.grad is None and float(fixed.tau) == pytest.approx(0.07)


@pytest.mark.parametrize(("start", "bound"), [(-50.0, 0.01), (3.0, 1.0)])
def test_the_temperature_stays_in_its_range_and_finds_back(start, bound):
    model = head().train()
    with torch.no_grad():
        model.log_tau.fill_(start)
    assert float(model.tau.detach()) == pytest.approx(bound)
    loss_of(model, 4)["macl"].backward()
    assert float(model.log_tau.detach()) == pytest.approx(math.log(bound), rel=1e-6)
    assert model.log_tau.grad != 0  # at the bound it can still move back


# --- precision, symmetry, faults


def test_embeddings_are_unit_rows_in_float32_under_autocast():
    model = head().eval()
    vis, _ = features(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.embed(vis)
        terms = loss_of(model, 5)
    assert low.dtype == terms["macl"].dtype == torch.float32
    torch.testing.assert_close(low.norm(dim=1), torch.ones(5))
    assert torch.equal(low, model.embed(vis))


def test_both_modalities_share_one_projection():
    model = head().eval()
    vis, _ = features(5)
    same, again = model.embed_pair(vis, vis)
    assert torch.equal(same, again)
    torch.testing.assert_close(same, model.embed(vis))


def test_negatives_are_columns_or_a_term_of_their_own():
    model = head()
    extra = Negatives(torch.full((4, 3), 0.5), torch.ones(4, 3, dtype=torch.bool))
    plain = loss_of(model, 4)
    columns = loss_of(model, 4, vis_negatives=extra, ir_negatives=extra)
    separate = loss_of(model, 4, vis_negatives=extra, ir_negatives=extra, separate=True)
    assert columns["macl"] > plain["macl"] and "dhn" not in columns
    assert float(columns["chance"]) == pytest.approx(math.log(7))
    assert torch.equal(separate["macl"], plain["macl"]) and separate["dhn"] > 0


def test_a_feature_that_is_not_a_number_raises_naming_the_loss():
    model = head()
    vis, ir = features(4)
    vis[2, 3] = math.nan
    with pytest.raises(NonFiniteError, match="loss_macl"):
        model(*model.embed_pair(vis, ir), torch.arange(4))


def test_a_wrong_width_is_refused_with_the_key_to_set():
    with pytest.raises(ConfigError, match=r"in_dim is 16; set macl_head\.in_dim"):
        head().embed(torch.zeros(3, 8))


def test_it_learns_to_pair_and_beats_chance():
    """Visible and infrared features are two fixed mixtures of one code: retrieval and loss leave chance behind."""
    torch.manual_seed(0)
    code = torch.randn(16, 16)
    vis, ir = code @ torch.randn(16, 16), code @ torch.randn(16, 16)
    model = head(tau=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        terms = model(*model.embed_pair(vis, ir), torch.arange(16))
        optimizer.zero_grad()
        terms["macl"].backward()
        optimizer.step()
    assert terms["macl"] < 0.5 * terms["chance"] and terms["accuracy"] > 0.7
