"""Checkpoints come back equal, hostile ones do not load, and old ones go."""

import argparse
import pickle
import random
import time
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_samples import state_of
from torch import nn

from shared import checkpoint
from shared.errors import CheckpointError
from shared.testing.damage import HOSTILE, shell, vouch

# --- saving and loading


def test_a_saved_state_comes_back_equal(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.randn(4, 3)}
    optimizer = {"state": {0: moments}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]}  # AdamW's
    state = {"model": model.state_dict(), "optimizer": optimizer, "best": 0.25, "tuple": (1, 2.0, None)}
    path = checkpoint.save(tmp_path / "last.pt", state, step=7, config={"a": {"b": 1}}, extra={"note": "x"})
    loaded = checkpoint.load(path)
    assert checkpoint.tensors_sha256(loaded["model"]) == checkpoint.tensors_sha256(model.state_dict())
    assert loaded["best"] == 0.25
    assert loaded["tuple"] == (1, 2.0, None)
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], moments["exp_avg"])
    assert loaded["optimizer"]["param_groups"] == optimizer["param_groups"]
    record = checkpoint.manifest(path)
    assert record["step"] == 7
    assert record["config"] == {"a": {"b": 1}}
    assert record["extra"] == {"note": "x"}
    assert record["bytes"] == path.stat().st_size
    assert record["sha256"] == checkpoint.sha256_of(path)
    assert record["torch"] == torch.__version__
    assert record["code"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["last.pt", "last.pt.json", "latest"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(0.5), "numpy.float64"),
        (np.int64(3), "numpy.int64"),
        (np.zeros(2), "numpy.ndarray"),
        (Path("x"), "PosixPath"),
        (argparse.Namespace(a=1), "Namespace"),
        (defaultdict(int), "defaultdict"),
        ({1, 2}, "set"),
        (torch.float32, "torch.dtype"),
        (nn.Linear(1, 1), "Linear"),
    ],
)
def test_what_the_safe_unpickler_refuses_is_not_saved(tmp_path, value, kind):
    state = {"a": OrderedDict(model=torch.ones(1)), "b": [{"best": value}]}
    with pytest.raises(TypeError, match=r"state\['b'\]\[0\]\['best'\]") as error:
        checkpoint.save(tmp_path / "last.pt", state, step=1)
    assert kind in str(error.value)
    assert not list(tmp_path.iterdir())


def test_keys_must_be_plain_and_the_manifest_json(tmp_path):
    with pytest.raises(TypeError, match=r"state\['a'\] has the key .*int64"):
        checkpoint.save(tmp_path / "last.pt", {"a": {np.int64(1): 1}}, step=1)
    with pytest.raises(TypeError, match="PosixPath"):
        checkpoint.save(tmp_path / "last.pt", {}, step=1, config={"root": Path("x")})
    assert not list(tmp_path.iterdir())


# --- hostile pickles


@pytest.mark.fault(9)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("vouched", [False, True], ids=["foreign", "with a manifest"])
@pytest.mark.parametrize(("write", "name"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_refused_by_name_and_never_run(tmp_path, write, name, vouched):
    path, canary = tmp_path / "teacher.pth", tmp_path / "canary"
    if vouched:
        checkpoint.save(path, {"w": torch.ones(2)}, step=1)
    write(path, canary, {"w": torch.ones(2)})
    vouch(path)
    for read in (checkpoint.load_weights, checkpoint.load) if vouched else (checkpoint.load_weights,):
        with pytest.raises(CheckpointError, match=rf"teacher\.pth was refused.*`[\w.]*{name}`") as error:
            read(path)
        assert "weights_only" not in str(error.value), "no advice to load it unsafely"
    time.sleep(0.02)
    assert not canary.exists()


def test_the_hostile_files_would_work_if_loaded_unsafely(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(shell(canary)))
    assert canary.exists()


# --- choosing and pruning


def test_load_latest_follows_the_pointer_and_knows_nothing_from_damage(tmp_path):
    assert checkpoint.load_latest(tmp_path / "none") is None
    assert checkpoint.load_latest(tmp_path) is None
    checkpoint.save(tmp_path / "a.pt", state_of(3), step=3)
    checkpoint.save(tmp_path / "b.pt", state_of(2), step=2)
    assert checkpoint.load_latest(tmp_path)[0].name == "b.pt"
    (tmp_path / "latest").unlink()
    assert checkpoint.load_latest(tmp_path)[0].name == "a.pt", "without a pointer the highest step"
    checkpoint.save(tmp_path / "c.pt", state_of(1), step=1, pointers=("best",))
    assert checkpoint.load_latest(tmp_path, "best")[0].name == "c.pt"


def test_prune_keeps_the_newest_the_pointed_at_and_the_foreign(tmp_path, caplog, monkeypatch):
    for step in range(1, 7):
        pointers = ("latest", "best") if step == 2 else ("latest",)
        checkpoint.save(tmp_path / f"step-{step}.pt", state_of(step), step=step, pointers=pointers)
    torch.save({}, tmp_path / "teacher.pt")
    removed = checkpoint.prune(tmp_path, 2)
    assert sorted(path.name for path in removed) == ["step-1.pt", "step-3.pt", "step-4.pt"]
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-2.pt", "step-5.pt", "step-6.pt", "teacher.pt"]
    assert len(list(tmp_path.glob("*.json"))) == 3
    with pytest.raises(ValueError, match="at least 1"):
        checkpoint.prune(tmp_path, 0)

    def failing_unlink(self, missing_ok=False):
        raise PermissionError(13, "no", str(self))

    monkeypatch.setattr(Path, "unlink", failing_unlink)
    assert checkpoint.prune(tmp_path, 1) == []
    assert "could not be removed" in caplog.text


# --- fingerprints and generators


def test_tensors_sha256_sees_names_types_shapes_and_values_but_not_order():
    base = {"a": torch.arange(4.0), "b": torch.tensor(1), "c": torch.ones(2, dtype=torch.bfloat16), "d": torch.empty(0)}
    digest = checkpoint.tensors_sha256(base)
    assert checkpoint.tensors_sha256(dict(reversed(base.items()))) == digest
    assert checkpoint.tensors_sha256({**base, "a": torch.arange(8.0)[::2] / 2}) == digest, "strides do not count"
    changes = [
        {"a": torch.arange(4.0) + torch.tensor([0, 0, 0, 1e-6])},
        {"a": torch.arange(4.0).reshape(2, 2)},
        {"a": torch.arange(4.0).double()},
        {"b": torch.tensor(2)},
        {"e": torch.empty(0)},
    ]
    assert len({checkpoint.tensors_sha256({**base, **change}) for change in changes} | {digest}) == len(changes) + 1


def draws():
    normal = random.gauss(0, 1), np.random.normal()  # noqa: NPY002 - each draws a pair and keeps the other
    return normal, random.random(), np.random.rand(3).tolist(), torch.randn(3).tolist()  # noqa: NPY002


def test_generators_continue_exactly_through_a_checkpoint(tmp_path):
    random.seed(0), np.random.seed(0)  # noqa: NPY002 - whatever ran before
    draws()
    state = checkpoint.rng_state()
    assert state["python"][2] is not None, "half a pair is waiting, or the case is too easy"
    assert state["numpy"][3] == 1
    checkpoint.save(tmp_path / "last.pt", {"rng": state}, step=1)
    expected = [draws(), draws()]
    assert [draws(), draws()] != expected
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "last.pt")["rng"])
    assert [draws(), draws()] == expected


@pytest.mark.gpu
def test_the_gpu_generator_continues_exactly():
    torch.randn(3, device="cuda")
    state = checkpoint.rng_state()
    expected = torch.randn(3, device="cuda")
    checkpoint.set_rng_state(state)
    assert torch.equal(torch.randn(3, device="cuda"), expected)
