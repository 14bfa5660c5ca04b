"""Checkpoints that must not be taken in: damaged ones, hostile pickles, weights of another model.

Functions are tried with every kind of damage, the entry scripts with some of each. All end with words for a person.
"""

import gzip
import io
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import tarfile
from collections import OrderedDict

import pytest
import torch
from llvip_samples import Work, nothing_to_train

from llvip_macl.runtime import checkpoints
from shared import checkpoint
from shared.errors import CheckpointError

slow = pytest.mark.slow
REMEDY = re.compile(r"[Rr]estore|remove|[Ff]etch|update this code|check the path|give a checkpoint|[Uu]se |start")


# --- damaged checkpoints ----------------------------------------------------------------------------------------------


def small_state(step):
    g = torch.Generator().manual_seed(step)
    weights = {f"layer{n}.weight": torch.randn(40, 40, generator=g) for n in range(4)}
    return {"state_dict": weights, "meta": {"epoch": step}, "position": {"step": step}, "optimizer": {"state": {}}}


@pytest.fixture
def folder(tmp_path):
    """Two sound checkpoints, and what each of them holds."""
    for step in (1, 2):
        checkpoint.save(tmp_path / f"epoch_{step}.pth", small_state(step), step=step, pointers=(checkpoints.LAST,))
    return tmp_path


def cut(at):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: at if isinstance(at, int) else int(at * len(content))])

    return damage


def flip(seed):
    def damage(path):
        content, draw = bytearray(path.read_bytes()), random.Random(seed)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)

    return damage


def zero(seed):
    def damage(path):
        content = bytearray(path.read_bytes())
        start = random.Random(seed).randrange(len(content) - 512)
        start = next(n for n in range(start, -1, -1) if any(content[n : n + 512]))  # a block that is not zero already
        content[start : start + 512] = bytes(512)
        path.write_bytes(content)

    return damage


def put(content):
    return lambda path: path.write_bytes(content)


def manifest(change):
    def damage(path):
        beside = path.with_name(f"{path.name}.json")
        beside.write_text(json.dumps({**json.loads(beside.read_text()), **change}))

    return damage


def swap(path):
    """The two files change places, their manifests do not."""
    other, kept = path.with_name("epoch_1.pth"), path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def drop(name):
    return lambda path: path.with_name(name.format(path.name)).unlink()


DAMAGE = {
    **{f"cut at {at}": cut(at) for at in (0, 1, 7, 8, 0.25, 0.5, 0.99, -1)},
    **{f"bit {seed}": flip(seed) for seed in range(20)},
    **{f"block {seed}": zero(seed) for seed in range(10)},
    "swapped": swap,
    "manifest missing": drop("{}.json"),
    "manifest not JSON": lambda path: path.with_name(f"{path.name}.json").write_text("{"),
    "manifest a list": lambda path: path.with_name(f"{path.name}.json").write_text("[]"),
    "manifest empty": lambda path: path.with_name(f"{path.name}.json").write_text(""),
    "manifest deeply nested": lambda path: path.with_name(f"{path.name}.json").write_text("[" * 100_000),
    "future schema": manifest({"schema": 99}),
    "schema a string": manifest({"schema": "1"}),
    "wrong hash": manifest({"sha256": "0" * 64}),
    "no hash": manifest({"sha256": None}),
    "wrong size": manifest({"bytes": 3}),
    "no step": manifest({"step": None}),
    "HTML page": put(b"<!DOCTYPE html><html><body>404</body></html>"),
    "git-LFS pointer": put(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "gzip": put(gzip.compress(b"weights")),
    "empty": put(b""),
    "text": put(b"weights"),
    "twice": lambda path: path.write_bytes(path.read_bytes() * 2),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "another run's": lambda path: torch.save(small_state(7), path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
POINTERS = {"empty": "", "blank": "\n", "dangling": "epoch_9.pth\n", "outside": "../epoch_9.pth\n",
            "another folder's": "/data/epoch_9.pth\n", "binary": b"\xff\x01"}  # fmt: skip


@pytest.mark.fault(8)
@pytest.mark.parametrize("case", DAMAGE)
def test_no_damage_is_accepted_silently(folder, case, caplog):
    """Read by name it is refused, with file and remedy; found as the newest, it is told and the one before is used."""
    path = folder / "epoch_2.pth"
    DAMAGE[case](path)
    with pytest.raises(CheckpointError) as refused:
        checkpoints.read_state(path)
    assert path.name in str(refused.value)
    assert REMEDY.search(str(refused.value)), str(refused.value)
    if case != "manifest missing":  # weights from elsewhere have none: there a warning says that nothing was verified
        with pytest.raises(CheckpointError, match=re.escape(path.name)):
            checkpoints.read_weights(path)
    if case == "swapped":
        with pytest.raises(CheckpointError, match="none is good"):
            checkpoints.newest_state(folder)
        return
    with caplog.at_level("WARNING"):
        found, state = checkpoints.newest_state(folder)
    assert (found.name, state["position"]["step"]) == ("epoch_1.pth", 1)
    assert "epoch_2.pth" in caplog.text


@pytest.mark.fault(8)
@pytest.mark.parametrize("case", POINTERS)
def test_a_pointer_that_leads_nowhere_is_told_and_the_newest_is_used(folder, case, caplog):
    content = POINTERS[case]
    (folder / checkpoints.LAST).write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level("WARNING"):
        found, state = checkpoints.newest_state(folder)
    assert (found.name, state["position"]["step"]) == ("epoch_2.pth", 2)
    assert checkpoints.LAST in caplog.text


def test_weights_without_a_manifest_are_told_to_be_unverified(folder, caplog):
    (folder / "epoch_2.pth.json").unlink()
    with caplog.at_level("WARNING"):
        checkpoints.read_weights(folder / "epoch_2.pth")
    assert "integrity not verified" in caplog.text


def test_the_damage_counts():
    assert len(DAMAGE) + len(POINTERS) >= 64


def copied(trained, folder, name="epoch_1.pth"):
    for one in (name, f"{name}.json"):
        shutil.copy(trained.run / one, folder / one)
    return folder / name


FAST_DAMAGE = ("cut at 0.5",)


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "case",
    [*FAST_DAMAGE, *[pytest.param(n, marks=slow) for n in ("bit 3", "wrong hash", "HTML page", "gzip", "empty")]],
)
def test_the_entry_scripts_refuse_damage(trained, work, tmp_path, case):
    path = copied(trained, tmp_path)
    DAMAGE[case](path)
    work.refused(str(path), options=[f"load_from={path}"], resume=False)
    work.refused(str(path), flags=("--resume", str(path)), resume=False)
    output = work.judge(path, code=2)
    assert str(path) in output and "Traceback" not in output


# --- hostile pickles --------------------------------------------------------------------------------------------------


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def hostile(kind, path, canary):
    """Write a file that would make the canary if somebody unpickled it carelessly."""
    code = f"open({str(canary)!r}, 'w').close()"
    shell = Evil(os.system, f"touch {canary}")
    others = {"exec": Evil(exec, code), "eval": Evil(eval, code),
              "subprocess": Evil(subprocess.Popen, ["touch", str(canary)])}  # fmt: skip
    evil = others.get(kind, shell)
    state = small_state(1)
    if kind == "optimizer":
        state["optimizer"] = {"state": {0: {"step": [{"deep": evil}]}}}
        torch.save(state, path)
    elif kind == "stock log":
        torch.save({"meta": {}, "state_dict": state["state_dict"], "message_hub": {"log_scalars": {"x": evil}}}, path)
    elif kind == "legacy":
        torch.save({**state, "meta": evil}, path, _use_new_zipfile_serialization=False)
    elif kind == "tar":
        with tarfile.open(path, "w") as file:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                content = pickle.dumps(evil, protocol=2)
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    elif kind == "bare":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    else:
        torch.save({**state, "state_dict": OrderedDict(state["state_dict"], extra=evil)}, path)


KINDS = {"os.system": "system", "exec": "exec", "eval": "eval", "subprocess": "Popen", "optimizer": "system",
         "stock log": "system", "legacy": "system", "tar": "", "bare": "system"}  # fmt: skip


@pytest.mark.fault(9)
@pytest.mark.parametrize("kind", ["os.system", *[pytest.param(n, marks=slow) for n in KINDS if n != "os.system"]])
def test_a_hostile_pickle_reaches_nothing_through_the_entry_scripts(work, tmp_path, kind):
    path, canary = tmp_path / "evil.pth", tmp_path / "canary"
    hostile(kind, path, canary)
    assert KINDS[kind] in work.refused(str(path), options=[f"load_from={path}"], resume=False)
    text = f"\nmodel['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint={str(path)!r})\n"
    Work(tmp_path / "initial", work.data, text=text).refused(str(path))
    assert "Traceback" not in work.judge(path, code=2)
    with path.open("rb") as file:  # as a state to continue from, with a manifest that fits
        record = {"sha256": checkpoint.sha256_of(path), "bytes": len(file.read()), "schema": 1, "step": 1}
    path.with_name("evil.pth.json").write_text(json.dumps(record))
    work.refused(str(path), flags=("--resume", str(path)), resume=False)
    assert not canary.exists()


# --- weights of another model -----------------------------------------------------------------------------------------


def renamed(prefix):
    return lambda weights: {f"{prefix}{name}": value for name, value in weights.items()}


def one_stream(weights):
    return {name: value for name, value in weights.items() if not name.startswith("backbone_ir.")}


BIAS = "roi_head.bbox_head.fc_cls.bias"
DRIFT = {  # name -> (change of the weights, is it taken?, what is said)
    "missing": (lambda weights: {n: v for n, v in weights.items() if n != BIAS}, False, BIAS),
    "unexpected": (lambda weights: {**weights, "extra.weight": torch.ones(2)}, False, "extra.weight"),
    "shape": (lambda weights: {**weights, BIAS: torch.zeros(81)}, False, BIAS),
    "dtype": (lambda weights: {**weights, BIAS: weights[BIAS].long()}, False, BIAS),
    "module.": (renamed("module."), True, "100.0 %"),
    "_orig_mod.": (renamed("_orig_mod."), True, "100.0 %"),
    "one stream": (one_stream, False, "backbone_ir.conv1.weight"),
    "another layout": (renamed("detector.student."), False, "missing"),
}


@pytest.mark.fault(10)
@pytest.mark.parametrize("case", ["missing", *[pytest.param(n, marks=slow) for n in DRIFT if n != "missing"]])
def test_weights_that_do_not_fit_are_reported_key_by_key(trained, work, tmp_path, case):
    change, taken, said = DRIFT[case]
    weights = checkpoint.load(trained.run / "epoch_1.pth")["state_dict"]
    torch.save({"state_dict": dict(change(weights)), "meta": {}}, tmp_path / "other.pth")
    ended = work.start(f"load_from={tmp_path / 'other.pth'}", resume=False, inject=nothing_to_train).wait()
    assert "Traceback" not in ended.output, ended.output[-3000:]
    assert said in ended.output
    assert ended.code == (0 if taken else 2), ended.output[-3000:]


@pytest.mark.fault(10)
@slow
def test_allowed_patterns_let_weights_pass_and_still_list_them(trained, work, tmp_path):
    weights = checkpoint.load(trained.run / "epoch_1.pth")["state_dict"]
    torch.save({**DRIFT["missing"][0](weights), "extra.weight": torch.ones(2)}, tmp_path / "other.pth")
    options = [f"load_from={tmp_path / 'other.pth'}", "load_rules.allow_missing=['roi_head.bbox_head.*']",
               "load_rules.allow_unexpected=['extra.*']"]  # fmt: skip
    output = work.train(*options, resume=False, inject=nothing_to_train)
    assert BIAS in output and "extra.weight" in output


@pytest.mark.fault(10)
@slow
def test_averaged_weights_alone_are_weights(trained, work, tmp_path):
    state = checkpoint.load(trained.run / "epoch_1.pth")
    averaged = {n.removeprefix("module."): v for n, v in state["ema_state_dict"].items() if n.startswith("module.")}
    torch.save(averaged, tmp_path / "ema.pth")
    output = work.train(f"load_from={tmp_path / 'ema.pth'}", resume=False, inject=nothing_to_train)
    assert "100.0 % of the model's values" in output
