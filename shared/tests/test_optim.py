"""Optimisation: group laws, schedules that keep ratios, the guarded step."""

import itertools
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from sample_net import Net, weights_of
from torch import nn

from shared.errors import ConfigError, NonFiniteError
from shared.optim import (
    Multiplier,
    accumulate,
    apply_schedule,
    constant,
    describe_groups,
    lr_groups,
    one_cycle,
    optimizer_step,
    warmup_cosine,
)
from shared.testing.injections import differences

ALONE = SimpleNamespace(rank=0, size=1, sum=lambda tensor: tensor)
SCALE = {"backbone.stem.*": 0.01, "backbone.*": 0.1, "head.*": 2.0}


# --- groups ---


@pytest.mark.parametrize("decay_1d", [False, True])
def test_groups_are_disjoint_and_complete(net, decay_1d):
    groups = lr_groups(net, 0.1, SCALE, weight_decay=0.5, decay_1d=decay_1d)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in net.parameters()}
    assert len({group["name"] for group in groups}) == len(groups)


def test_first_match_wins_and_the_rest_has_the_base_rate(net):
    rate = {id(p): g["lr"] for g in lr_groups(net, 0.1, SCALE) for p in g["params"]}
    assert rate[id(net.backbone["stem"].weight)] == pytest.approx(0.001)
    assert rate[id(net.backbone["norm"].weight)] == pytest.approx(0.01)
    assert rate[id(net.head.weight)] == pytest.approx(0.2)
    assert rate[id(net.scale)] == pytest.approx(0.1)


def test_biases_and_1d_tensors_do_not_decay_unless_asked(net):
    for decay_1d in (False, True):
        groups = lr_groups(net, 0.1, SCALE, weight_decay=0.5, decay_1d=decay_1d)
        for group in groups:
            for parameter in group["params"]:
                assert group["weight_decay"] == (0.5 if parameter.ndim > 1 or decay_1d else 0.0)


def test_a_bias_table_does_not_decay():
    model = nn.Module()
    model.bias = nn.Parameter(torch.zeros(3, 3))
    assert lr_groups(model, 0.1, {}, weight_decay=0.5)[0]["weight_decay"] == 0


def test_frozen_parameters_are_left_out(net, caplog):
    net.backbone.requires_grad_(False)
    groups = lr_groups(net, 0.1, {"backbone.*": 0.1})
    assert [g["name"] for g in groups] == ["rest"]
    assert sum(len(g["params"]) for g in groups) == 3
    assert "'backbone.*' matches frozen parameters only" in caplog.text
    with pytest.raises(ConfigError, match="nothing to train: all 7"):
        lr_groups(net.requires_grad_(False), 0.1, {})


def test_no_match_names_the_closest(net):
    with pytest.raises(ConfigError, match=r"'bakbone\.\*' matches no parameter; closest: .*backbone\.\*"):
        lr_groups(net, 0.1, {"bakbone.*": 0.1})
    with pytest.raises(ConfigError, match="the model has: backbone, head, scale"):
        lr_groups(net, 0.1, {"@@@": 0.1})


def test_a_pattern_that_earlier_ones_leave_nothing_is_refused(net):
    with pytest.raises(ConfigError, match=r"'head\.\*' has no effect: earlier patterns \(\*\)"):
        lr_groups(net, 0.1, {"*": 1.0, "head.*": 2.0})


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_scale_must_be_above_zero(net, factor):
    with pytest.raises(ConfigError, match="freeze them"):
        lr_groups(net, 0.1, {"head.*": factor})
    with pytest.raises(ConfigError, match="base learning rate"):
        lr_groups(net, factor, {})


def test_table_lists_every_group(net):
    groups = lr_groups(net, 0.1, SCALE, weight_decay=0.5)
    lines = describe_groups(groups).splitlines()
    assert len(lines) == 1 + len(groups) and len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["backbone.stem.*", "1", "12", "0.001", "0.5"]


# --- schedules ---


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("schedule", [constant, warmup_cosine, one_cycle])
def test_every_rate_keeps_its_ratio_at_every_step(net, schedule, kind):
    """PyTorch's OneCycleLR and OpenPCDet's write one rate into all groups: the ratios would be 1 from step 0."""
    optimizer = kind(lr_groups(net, 0.1, SCALE, weight_decay=0.1), lr=123.0)
    expected = {"backbone.stem.*": 0.01, "backbone.*": 0.1, "head.*": 2.0, "rest": 1.0}
    for step in range(50):
        apply_schedule(optimizer, schedule(step, 50))
        factor = schedule(step, 50)
        factor = factor.lr if isinstance(factor, Multiplier) else factor
        for group in optimizer.param_groups:
            ratio = expected[group["name"].removesuffix(" (no decay)")]
            assert group["lr"] == pytest.approx(0.1 * ratio * factor, rel=1e-12)
            assert group["lr"] > 0
        optimizer.step()


def test_warmup_cosine_hand_values():
    values = [warmup_cosine(step, 100, warmup=0.1, final=0.2) for step in range(101)]
    assert values[:10] == pytest.approx([0.1 * (n + 1) for n in range(10)])
    assert values[10] == 1.0 and values[55] == pytest.approx(0.6) and values[100] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(values[10:]))


def test_one_cycle_hand_values():
    """OpenPCDet: lr/10 -> lr -> lr/1e5 with momentum 0.95 -> 0.85 -> 0.95, peak at 40 %."""
    assert one_cycle(0, 100) == pytest.approx((0.1, 0.95))
    assert one_cycle(20, 100) == pytest.approx((0.55, 0.90))
    assert one_cycle(40, 100) == pytest.approx((1.0, 0.85))
    assert one_cycle(70, 100) == pytest.approx(((1 + 1e-5) / 2, 0.90))
    assert one_cycle(100, 100) == pytest.approx((1e-5, 0.95))


def test_beta1_reaches_the_optimizer(net):
    adam, sgd = torch.optim.AdamW(lr_groups(net, 0.1, {})), torch.optim.SGD(lr_groups(net, 0.1, {}), lr=1)
    for optimizer in (adam, sgd):
        apply_schedule(optimizer, Multiplier(0.5, 0.7))
    assert adam.param_groups[0]["betas"] == (0.7, 0.999)
    assert sgd.param_groups[0]["momentum"] == 0.7


def test_schedules_refuse_impossible_steps(net):
    for schedule in (constant, warmup_cosine, one_cycle):
        assert schedule(0, 1)
        for step, total in ((-1, 5), (6, 5), (0, 0)):
            with pytest.raises(ValueError, match=f"step {step} of {total}"):
                schedule(step, total)
    with pytest.raises(ValueError, match="warmup 5 is a share"):
        warmup_cosine(0, 100, warmup=5)
    with pytest.raises(ValueError, match="lr_groups"):
        apply_schedule(torch.optim.SGD(net.parameters(), lr=1), 1.0)


# --- the step ---


def make_step(net, **changes):
    optimizer = torch.optim.AdamW(lr_groups(net, 0.1, {"backbone.*": 0.1}, weight_decay=0.1))
    arguments = {"clip": 1.0, "world": ALONE, "step": 7, "terms": {}, "sample_ids": ["a", "b"], **changes}
    return optimizer, lambda loss, **more: optimizer_step(loss, net, optimizer, **{**arguments, **more})


def test_step_equals_the_plain_recipe(net):
    x = torch.randn(8, 3)
    twin = Net()
    twin.load_state_dict(net.state_dict())
    _, step = make_step(net, clip=0.05)
    plain = torch.optim.AdamW(lr_groups(twin, 0.1, {"backbone.*": 0.1}, weight_decay=0.1))
    for _ in range(3):
        result = step(net(x).square().mean())
        plain.zero_grad()
        twin(x).square().mean().backward()
        norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        plain.step()
        assert result.grad_norm == pytest.approx(norm.item(), rel=1e-6) and not result.stop
    assert differences(weights_of(net), weights_of(twin)) == []
    assert all(p.grad is None for p in net.parameters())


def test_clip_bounds_the_step_and_none_does_not(net):
    moves = []
    for clip in (0.5, None):
        model = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(model.weight)
        optimizer = torch.optim.SGD(lr_groups(model, 1.0, {}), lr=1)
        optimizer_step(model(torch.tensor([30.0, 40.0])).sum(), model, optimizer, clip=clip, world=ALONE, step=1,
                       terms={}, sample_ids=[])  # fmt: skip
        moves.append(model.weight.detach().norm().item())
    assert moves == pytest.approx([0.5, 50.0], rel=1e-4)
    with pytest.raises(ValueError, match="clip 0"):
        make_step(net, clip=0)[1](net(torch.randn(4, 3)).sum())


class PoisonGradient(torch.autograd.Function):
    """Identity whose gradient is NaN: the loss looks healthy."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


FAULTS = {
    "loss NaN": lambda loss: loss * math.nan,
    "loss inf": lambda loss: loss * math.inf,
    "loss NaN, gradient healthy": lambda loss: loss + math.nan,
    "gradient only": PoisonGradient.apply,
}


@pytest.mark.fault(11)
@pytest.mark.parametrize("fault", FAULTS)
def test_non_finite_stops_before_the_weights_move(net, fault):
    optimizer, step = make_step(net)
    x = torch.randn(8, 3)
    step(net(x).square().mean())
    net.eval()
    before, moments = weights_of(net), repr(optimizer.state_dict())
    loss = FAULTS[fault](net(x).square().mean())
    with pytest.raises(NonFiniteError) as caught:
        step(loss, terms={"l_clip": torch.tensor(0.25), "l_sim": torch.tensor(math.nan)})
    message = str(caught.value)
    assert "step 7" in message and "l_clip 0.25" in message and "l_sim nan" in message and "a, b" in message
    assert differences(weights_of(net), before) == [] and repr(optimizer.state_dict()) == moments
    assert all(p.grad is None for p in net.parameters())
    step(net(x).square().mean())
    assert differences(weights_of(net), before), "the next good step works"


@pytest.mark.fault(11)
def test_poisoned_gradients_are_named(net):
    _, step = make_step(net)
    net.head.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteError, match=r"non-finite gradients in 1 tensors: head\.weight\n"):
        step(net(torch.randn(8, 3)).square().mean())


def test_long_id_lists_are_cut(net):
    with pytest.raises(NonFiniteError, match=r"s63 and 36 more"):
        make_step(net)[1](net(torch.randn(8, 3)).sum() * math.nan, sample_ids=[f"s{n}" for n in range(100)])


# --- accumulation ---


def test_accumulated_equals_whole_batch(net):
    net.eval()
    whole = Net().eval()
    whole.load_state_dict(net.state_dict())
    x = torch.randn(12, 3)
    parts = x.chunk(3)
    losses = torch.stack([accumulate(net(part).square().mean(), len(parts)) for part in parts])
    result = make_step(net)[1](losses, backward=False)
    whole_loss = whole(x).square().mean()
    expected = make_step(whole)[1](whole_loss)
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    assert losses.mean().item() == pytest.approx(whole_loss.item(), rel=1e-5)
    for one, other in zip(net.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.fault(11)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("bad_part", [0, 1, 2])
def test_a_fault_inside_accumulation_is_caught(net, fault, bad_part):
    net.eval()
    before = weights_of(net)
    optimizer, step = make_step(net)
    parts = torch.randn(12, 3).chunk(3)
    losses = [net(part).square().mean() for part in parts]
    losses[bad_part] = FAULTS[fault](losses[bad_part])
    stacked = torch.stack([accumulate(loss, 3) for loss in losses])
    with pytest.raises(NonFiniteError, match="step 7"):
        step(stacked, backward=False)
    assert differences(weights_of(net), before) == [] and not optimizer.state_dict()["state"]


# --- two processes ---

TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
from shared.errors import NonFiniteError
from shared.optim import lr_groups, optimizer_step
from shared.run import World

class Descent:  # torch.optim costs seconds of import per process
    def __init__(self, groups): self.param_groups = groups
    def zero_grad(self, set_to_none):
        for p in self.param_groups[0]["params"]: p.grad = None
    def step(self):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]: p -= p.grad

torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Linear(3, 2)
optimizer = Descent(lr_groups(model, 0.1, {}))
def step(number, factor=1.0, stop=False):
    loss = model(torch.ones(4, 3)).square().mean() * factor
    return optimizer_step(loss, model, optimizer, clip=1.0, world=World(rank, 2), step=number, terms={"l": loss},
                          sample_ids=[f"sample-{rank}"], stop=stop)
print("stop", step(1).stop, step(2, stop=rank == 1).stop)
before = model.weight.clone()
try:
    step(3, factor=float("nan") if rank == 1 else 1.0)
except NonFiniteError as error:
    print("stopped", str(error).replace("\\n", " "))
print("unchanged", torch.equal(model.weight, before))
"""


@pytest.mark.fault(11)
def test_a_fault_on_one_rank_stops_both(tmp_path):
    commands = [[sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path / "store")] for rank in (0, 1)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(c, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options) for c in commands]
    outputs = [process.communicate(timeout=60) for process in running]
    for rank, (out, err) in enumerate(outputs):
        assert "stop False True" in out, err
        assert "stopped step 3: loss or gradient is not finite on rank 1;" in out and f"sample-{rank}" in out, err
        assert ("healthy" in out) == (rank == 0)
        assert "unchanged True" in out
