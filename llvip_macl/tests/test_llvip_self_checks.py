"""The self-checks find what they are for: a module without gradient, a loss counted twice, a broken config."""

from pathlib import Path

import pytest
import torch
from torch import nn

from llvip_macl.self_checks import Flow, flows, forward_kaist, grad_flow, sum_fault, table, verdict, verify_stage1

CONFIGS = Path(__file__).parents[1] / "configs/embedded"
SMALL = ["--size", "128", "160"]


def network():
    """b learns, a.dead is never used, a.frozen needs no gradient."""
    net = nn.ModuleDict(
        {"a": nn.ModuleDict({"dead": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)}), "b": nn.Linear(2, 1)}
    )
    net["a"]["frozen"].requires_grad_(False)
    net["b"](torch.ones(1, 2)).sum().backward()
    return net


def test_a_module_without_gradient_is_found_and_a_frozen_one_is_not():
    found = flows(network())
    assert {name: bool(flow.fault) for name, flow in found.items()} == {
        "a.dead": True,
        "b.weight": False,
        "b.bias": False,
    }
    assert found["a.dead"].without == ("a.dead.weight", "a.dead.bias") and found["b.weight"].norm == pytest.approx(
        2**0.5
    )
    assert any("FAULT" in line and "a.dead" in line for line in table(found))


FAULTS = [(Flow(float("nan"), 2, ()), "finite"), (Flow(0.0, 2, ()), "exactly 0"), (Flow(0.0, 1, ("x",)), "no gradient")]


@pytest.mark.parametrize(("flow", "fault"), [*FAULTS, (Flow(1.0, 2, ("x",)), None)])
def test_every_kind_of_fault_has_its_words(flow, fault):
    assert (fault is None and flow.fault is None) or fault in flow.fault


def test_a_loss_counted_twice_does_not_add_up():
    total = torch.tensor(3.0)
    assert sum_fault(total, {"loss_a": 1.0, "loss_b": 2.0, "acc": 90.0, "loss": 3.0}) is None
    assert "add up to 6" in sum_fault(total, {"loss_a": 1.0, "loss_b": 2.0, "loss_total": 3.0})


def test_the_verdict_is_the_exit_code(capsys):
    assert verdict([], "fine") == 0 and verdict(["x: broken"], "fine") == 1
    assert "FAILED: x: broken" in capsys.readouterr().out


def test_the_small_model_passes_and_names_its_modules(capsys):
    assert verify_stage1([str(CONFIGS / "stage1.py"), *SMALL]) == 0
    text = capsys.readouterr().out
    assert "OK:" in text and all(name in text for name in ("backbone_ir.layer4", "neck.msp", "roi_head.macl_head"))


def test_a_module_that_is_cut_off_fails_the_check(monkeypatch, capsys):
    from llvip_macl.models.roi_head import MACLRoIHead

    def without_gradient(self, *arguments):
        return {name: value.detach() for name, value in contrastive(self, *arguments).items()}

    contrastive = MACLRoIHead._contrastive
    monkeypatch.setattr(MACLRoIHead, "_contrastive", without_gradient)
    assert verify_stage1([str(CONFIGS / "stage1.py"), *SMALL]) == 1
    assert "FAILED: roi_head.macl_head: no gradient" in capsys.readouterr().out


def test_what_cannot_be_built_is_two(capsys):
    assert verify_stage1([str(CONFIGS / "stage9.py")]) == 2
    assert verify_stage1([str(CONFIGS / "stage1.py"), "--cfg-options", "model.neck.num_outs=4"]) == 2
    assert verify_stage1([str(CONFIGS / "stage1.py"), "--batch", "0"]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds")


@pytest.mark.parametrize(("check", "config"), [(forward_kaist, "stage2.py"), (grad_flow, "stage1.py")])
def test_a_single_sample_is_enough(check, config, world, capsys):
    options = ["embedded.pairs=(3, 1)", "embedded.size_hw=(96, 128)", f"embedded.parent={world}"]
    assert check([str(CONFIGS / config), "--cfg-options", *options]) == 0
    text = capsys.readouterr().out
    assert "OK:" in text and "EMBEDDED" in text
