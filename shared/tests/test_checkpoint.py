"""Checkpoints under kill -9, damage, hostile files, drifting keys and full disks: nothing is accepted silently."""

import argparse
import builtins
import contextlib
import gzip
import io
import json
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from shared import checkpoint
from shared.errors import CheckpointError, StorageError, UserError

KILLS = 25


def state_of(step: int, values: int = 4096) -> dict:
    """A state whose every part tells its step."""
    generator = torch.Generator().manual_seed(step)
    return {"weights": torch.randn(values, generator=generator), "step": step, "nested": {"list": [step, None, "x"]}}


def is_state_of(state: dict, step: int) -> bool:
    expected = state_of(step, len(state["weights"]))
    return torch.equal(state["weights"], expected["weights"]) and state["step"] == step == state["nested"]["list"][0]


def in_child(body) -> str:
    """What `body` returns, run in a forked process (for limits and signals that must not touch this one)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.write(writer, str(body()).encode())
            code = 0
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child failed: {text}"
    return text


def storage_failure(body) -> str:
    """The message of the StorageError that `body` must end with."""
    with pytest.raises(StorageError) as error:
        body()
    return str(error.value)


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
    with pytest.raises(ValueError, match="schema 2"):
        checkpoint.save(tmp_path / "last.pt", {}, step=1, schema=checkpoint.SCHEMA + 1)
    assert not list(tmp_path.iterdir())


# --- kill -9


@pytest.fixture
def quick_folder():
    """In memory where possible: the moments of death then spread over the work, not over the disk's waits."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if usable else None) as folder:
        yield Path(folder)


def save_forever(folder: Path, acknowledge: int, fresh_names: bool) -> None:
    found = checkpoint.load_latest(folder)
    step = found[1]["step"] if found else 0
    while True:
        step += 1
        name = f"step-{step}.pt" if fresh_names else "last.pt"
        checkpoint.save(folder / name, state_of(step, 256), step=step)
        os.write(acknowledge, f"{step}\n".encode())
        checkpoint.prune(folder, 2)


def kill_one(folder: Path, saves: int, delay_s: float, fresh_names: bool) -> int:
    """Kill a process some time after it acknowledged so many saves; the last step it acknowledged."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            save_forever(folder, writer, fresh_names)
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as acknowledged:
        steps = [acknowledged.readline() for _ in range(saves)]
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        steps += acknowledged.read().split()
    assert os.WIFSIGNALED(status), "the saving process ended by itself"
    return int(steps[-1]) if steps else 0


def seconds_of_a_save(folder: Path) -> float:
    checkpoint.save(folder / "trial.pt", state_of(0, 256), step=0)
    started = time.perf_counter()
    checkpoint.save(folder / "trial.pt", state_of(0, 256), step=0)
    return time.perf_counter() - started


@pytest.mark.parametrize("fresh_names", [True, False], ids=["a file a step", "one file overwritten"])
def test_kill_9_at_a_random_moment_loses_at_most_the_step_under_way(quick_folder, fresh_names):
    (quick_folder / "trial").mkdir()
    save_s = seconds_of_a_save(quick_folder / "trial")
    folder, moments, reached = quick_folder / "run", random.Random(0), 0
    folder.mkdir()
    for kill in range(KILLS):
        delay_s = moments.uniform(0, 4) * save_s
        reached = max(reached, kill_one(folder, moments.randint(0, 3), delay_s, fresh_names))
        found = checkpoint.load_latest(folder)
        assert found or reached == 0, f"kill {kill}: nothing to resume although step {reached} was saved"
        if found:
            path, state = found
            assert is_state_of(state, state["step"]), f"kill {kill}: tensors of another step"
            assert checkpoint.manifest(path)["step"] == state["step"]
            assert state["step"] >= reached, f"kill {kill}: step {reached} was saved and is lost"
        checkpoint.sweep(folder)
        assert not list(folder.glob(".*")), "leftovers after the sweep"
    assert reached > KILLS, "too few saves for the test to mean anything"


@pytest.mark.parametrize("fresh_names", [True, False], ids=["new name", "overwritten"])
@pytest.mark.parametrize("survived", range(5))
def test_death_before_each_rename_leaves_the_old_or_the_new_state(tmp_path, monkeypatch, survived, fresh_names):
    class Death(BaseException):
        pass

    names = ("step-1.pt", "step-2.pt") if fresh_names else ("last.pt", "last.pt")
    checkpoint.save(tmp_path / names[0], state_of(1), step=1)
    renames, rename = [], Path.replace

    def dying_replace(self, target):
        if len(renames) == survived:
            raise Death
        renames.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dying_replace)
    with contextlib.suppress(Death):
        checkpoint.save(tmp_path / names[1], state_of(2), step=2)
    monkeypatch.undo()
    path, state = checkpoint.load_latest(tmp_path)
    assert is_state_of(state, checkpoint.manifest(path)["step"])
    if not fresh_names:
        assert checkpoint.load(tmp_path / "last.pt")["step"] == state["step"], "the one file must stay good throughout"
    expected_new = survived >= (3 if fresh_names else 2)
    assert state["step"] == (2 if expected_new else 1)


def test_the_first_save_cut_anywhere_can_be_started_again(tmp_path, monkeypatch):
    rename = Path.replace

    def dying_replace(self, target):
        if target.suffix != ".json":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dying_replace)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "last.pt", state_of(1), step=1)
    assert checkpoint.load_latest(tmp_path) is None


# --- damage


def flip(offset: float, bit: int):
    def damage(path: Path):
        data = bytearray(path.read_bytes())
        data[int(offset * (len(data) - 1))] ^= 1 << bit
        path.write_bytes(data)

    return damage


def truncate(length):
    def damage(path: Path):
        data = path.read_bytes()
        path.write_bytes(data[: length(len(data)) if callable(length) else length])

    return damage


def zero_block(part: float):
    def damage(path: Path):
        data = bytearray(path.read_bytes())
        start = int(part * (len(data) - 64))
        while not any(data[start : start + 64]):  # padding is zero already
            start -= 64
        data[start : start + 64] = bytes(64)
        path.write_bytes(data)

    return damage


def replace_by(content: bytes):
    return lambda path: path.write_bytes(content)


def swap_files(path: Path):
    other = path.with_name("step-1.pt")
    first, second = other.read_bytes(), path.read_bytes()
    other.write_bytes(second)
    path.write_bytes(first)


def copy_older(path: Path):
    shutil.copyfile(path.with_name("step-1.pt"), path)


def edit_manifest(edit):
    def damage(path: Path):
        source = path.with_name(f"{path.name}.json")
        record = json.loads(source.read_text())
        edit(record)
        source.write_text(json.dumps(record))

    return damage


def manifest_by(content: bytes | None):
    def damage(path: Path):
        source = path.with_name(f"{path.name}.json")
        source.unlink() if content is None else source.write_bytes(content)

    return damage


CUTS = [0, 1, 7, 8, lambda n: n // 4, lambda n: n // 2, lambda n: n * 99 // 100, lambda n: n - 1]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILE_DAMAGE = {
    **{f"truncated {number}": truncate(cut) for number, cut in enumerate(CUTS)},
    **{f"bit flip {number}": flip(number / 19, number % 8) for number in range(20)},
    **{f"zeroed block {number}": zero_block((number + 0.5) / 10) for number in range(10)},
    "swapped with the earlier step": swap_files,
    "replaced by the earlier step": copy_older,
    "manifest missing": manifest_by(None),
    "manifest not JSON": manifest_by(b"{'sha256': 1}"),
    "manifest cut": manifest_by(b'{"sha256": "ab'),
    "manifest empty": manifest_by(b""),
    "manifest binary": manifest_by(b"\xff\xfe\x00\x01"),
    "manifest a list": manifest_by(b"[1, 2]"),
    "manifest without keys": manifest_by(b"{}"),
    "manifest of a future schema": edit_manifest(lambda record: record.update(schema=99)),
    "manifest with another hash": edit_manifest(lambda record: record.update(sha256="0" * 64)),
    "manifest with another size": edit_manifest(lambda record: record.update(bytes=record["bytes"] + 1)),
    "manifest with a size as text": edit_manifest(lambda record: record.update(bytes=str(record["bytes"]))),
    "manifest without a step": edit_manifest(lambda record: record.pop("step")),
    "HTML page": replace_by(b"<!DOCTYPE html>\n<html><body>404</body></html>"),
    "git-LFS pointer": replace_by(LFS),
    "gzip": replace_by(gzip.compress(b"weights")),
    "empty": replace_by(b""),
    "text": replace_by(b"hello"),
}
POINTER_DAMAGE = {
    "empty": b"",
    "blank": b"  \n",
    "dangling": b"step-9.pt\n",
    "binary": b"\xff\xfe\x00",
    "above the folder": b"../step-2.pt\n",
    "absolute": b"ABSOLUTE",
    "the folder itself": b"..\n",
}


def test_the_corpus_has_64_cases():
    assert len(FILE_DAMAGE) + len(POINTER_DAMAGE) == 64


@pytest.fixture
def two_steps(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (1, 2):
        checkpoint.save(folder / f"step-{step}.pt", state_of(step), step=step)
    return folder


@pytest.mark.parametrize("damage", FILE_DAMAGE.values(), ids=FILE_DAMAGE.keys())
def test_a_damaged_checkpoint_is_named_and_the_earlier_one_used(two_steps, caplog, damage):
    newest = two_steps / "step-2.pt"
    before = newest.read_bytes(), (two_steps / "step-2.pt.json").read_bytes()
    damage(newest)
    after = newest.read_bytes(), manifest.read_bytes() if (manifest := two_steps / "step-2.pt.json").exists() else None
    assert before != after, "the case damages nothing"
    with pytest.raises(CheckpointError, match=r"step-2\.pt.*: .*(Restore|update)"):
        checkpoint.load(newest)
    if damage is swap_files:
        with pytest.raises(CheckpointError, match="none is good"):
            checkpoint.load_latest(two_steps)
        return
    path, state = checkpoint.load_latest(two_steps)
    assert path.name == "step-1.pt"
    assert is_state_of(state, 1)
    assert "step-2.pt" in caplog.text
    assert "falling back" in caplog.text
    (two_steps / "step-1.pt").unlink()
    with pytest.raises(CheckpointError, match="none is good"):
        checkpoint.load_latest(two_steps)


@pytest.mark.parametrize("content", POINTER_DAMAGE.values(), ids=POINTER_DAMAGE.keys())
def test_a_damaged_pointer_is_never_followed(two_steps, caplog, content):
    outside = checkpoint.save(two_steps.parent / "step-2.pt", state_of(5), step=5, pointers=())
    (two_steps / "latest").write_bytes(content.replace(b"ABSOLUTE", str(outside).encode()))
    if b".." in content or b"ABSOLUTE" in content:
        with pytest.raises(CheckpointError, match=r"latest names .* out of its folder.*remove the pointer"):
            checkpoint.load_latest(two_steps)
        return
    path, state = checkpoint.load_latest(two_steps)
    assert path == two_steps / "step-2.pt"
    assert is_state_of(state, 2)
    assert any(record.levelno == logging.WARNING and "latest" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"<html>", "HTML"), (LFS, "git-LFS"), (gzip.compress(b""), "gzip"), (b"", "empty")],
)
def test_files_that_are_no_weights_are_recognised(tmp_path, content, word):
    path = tmp_path / "teacher.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"teacher.pth holds no weights.*{word}"):
        checkpoint.load_weights(path)


# --- hostile pickles


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def legacy_tar(path: Path, payload) -> None:
    with tarfile.open(path, "w") as archive:
        for name, value in {"storages": 0, "tensors": 0, "pickle": payload}.items():
            data = pickle.dumps(value, 2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def touch(canary):
    return Call(os.system, f"touch {canary}")


HOSTILE = {
    "os.system": (lambda p, c: torch.save(touch(c), p), "system"),
    "builtins.exec": (lambda p, c: torch.save({"a": Call(builtins.exec, f"open({str(c)!r}, 'w')")}, p), "exec"),
    "builtins.eval": (lambda p, c: torch.save({"a": Call(builtins.eval, f"open({str(c)!r}, 'w')")}, p), "eval"),
    "subprocess": (lambda p, c: torch.save([Call(subprocess.Popen, ["touch", str(c)])], p), "Popen"),
    "in optimizer state": (
        lambda p, c: torch.save({"model": {}, "optimizer": {"state": {0: {"exp_avg": touch(c)}}}}, p),
        "system",
    ),
    "legacy .pth of a teacher": (
        lambda p, c: torch.save({"w": torch.ones(2), "x": touch(c)}, p, _use_new_zipfile_serialization=False),
        "system",
    ),
    "legacy tar": (lambda p, c: legacy_tar(p, touch(c)), "system"),
    "bare pickle, protocol 4": (lambda p, c: p.write_bytes(pickle.dumps(touch(c), protocol=4)), "system"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("vouched", [False, True], ids=["foreign", "with a manifest"])
@pytest.mark.parametrize(("write", "name"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_refused_by_name_and_never_run(tmp_path, write, name, vouched):
    path, canary = tmp_path / "teacher.pth", tmp_path / "canary"
    write(path, canary)
    if vouched:
        record = {"schema": 1, "step": 1, "bytes": path.stat().st_size, "sha256": checkpoint.sha256_of(path)}
        path.with_name("teacher.pth.json").write_text(json.dumps(record))
    for read in (checkpoint.load_weights, checkpoint.load) if vouched else (checkpoint.load_weights,):
        with pytest.raises(CheckpointError, match=rf"teacher\.pth was refused.*`[\w.]*{name}`") as error:
            read(path)
        assert "weights_only" not in str(error.value), "no advice to load it unsafely"
    time.sleep(0.02)
    assert not canary.exists()


def test_the_hostile_files_would_work_if_loaded_unsafely(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(touch(canary)))
    assert canary.exists()


# --- foreign weights


def test_weights_from_elsewhere_are_verified_as_far_as_possible(tmp_path, caplog):
    path = tmp_path / "teacher.pth"
    torch.save({"w": torch.arange(3.0)}, path)
    digest = checkpoint.sha256_of(path)
    assert torch.equal(checkpoint.load_weights(path, digest)["w"], torch.arange(3.0))
    assert "not verified" not in caplog.text
    checkpoint.load_weights(path)
    assert "integrity not verified" in caplog.text
    assert digest in caplog.text
    with pytest.raises(CheckpointError, match="its sha256 is"):
        checkpoint.load_weights(path, "0" * 64)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.load_weights(tmp_path / "none.pth")
    torch.save([torch.ones(1)], path)
    with pytest.raises(CheckpointError, match="holds a list, not a dict"):
        checkpoint.load_weights(path)


def test_a_manifest_beside_the_weights_is_used(tmp_path, caplog):
    path = checkpoint.save(tmp_path / "distilled.pth", {"w": torch.ones(300)}, step=1)
    assert torch.equal(checkpoint.load_weights(path)["w"], torch.ones(300))
    assert "not verified" not in caplog.text
    flip(0.5, 1)(path)
    with pytest.raises(CheckpointError, match=r"distilled\.pth is damaged"):
        checkpoint.load_weights(path)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "teacher.safetensors"
    safetensors.save_file({"w": torch.arange(4.0)}, path)
    assert torch.equal(checkpoint.load_weights(path)["w"], torch.arange(4.0))
    truncate(20)(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load_weights(path)


@pytest.mark.parametrize("cut", [10, 100, 500, 900])
def test_cut_foreign_files_fail_clearly(tmp_path, cut):
    path = tmp_path / "teacher.pth"
    torch.save({"w": torch.ones(4)}, path)
    truncate(cut)(path)
    with pytest.raises(CheckpointError, match=r"teacher\.pth (cannot be read|was refused)"):
        checkpoint.load_weights(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_damage_to_foreign_files_ends_in_a_load_or_a_clear_error(tmp_path):
    chance, path, seeds = random.Random(0), tmp_path / "teacher.pth", []
    for zipped in (True, False):
        torch.save({"w": torch.ones(9), "x": [1, "a"]}, path, _use_new_zipfile_serialization=zipped)
        seeds.append(path.read_bytes())
    for _ in range(300):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([None, chance.randrange(len(data))])])
        with contextlib.suppress(CheckpointError):
            checkpoint.load_weights(path)


# --- loading into a model


def network() -> nn.Module:
    return nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "head": nn.Linear(4, 2)})


def renamed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


def drift_cases():
    """name -> (state dict, kind of deviation, the names reported, patterns that excuse it)."""
    good = network().state_dict()
    shape = {**good, "head.weight": torch.zeros(3, 4)}
    dtype = {**good, "head.weight": torch.zeros(2, 4, dtype=torch.int64)}
    layout = {"backbone": {"conv": torch.zeros(1)}, "epoch": 3}
    return {
        "missing": (without(good, "head.bias"), "missing", ["head.bias"], {"allow_missing": ["head.*"]}),
        "unexpected": ({**good, "extra.w": torch.ones(1)}, "unexpected", ["extra.w"], {"allow_unexpected": ["extra*"]}),
        "wrong shape": (shape, "mismatched", ["head.weight: file (3, 4)"], {"allow_mismatched": ["head.weight"]}),
        "wrong dtype": (dtype, "mismatched", ["head.weight: file (2, 4) int64"], {"allow_mismatched": ["head.*"]}),
        "module.": (renamed(good, "module."), None, [], {}),
        "_orig_mod.": (renamed(good, "_orig_mod.module."), None, [], {}),
        "EMA only": ({"ema": dict(good)}, "unexpected", ["ema"], None),
        "another layout": (layout, "missing", ["body.0.weight"], None),
    }


@pytest.mark.parametrize("case", drift_cases())
def test_key_drift_is_reported_and_leaves_the_model_alone(case):
    state, kind, names, excuses = drift_cases()[case]
    model = network()
    before = checkpoint.tensors_sha256(model.state_dict())
    if kind is None:
        report = checkpoint.load_into(model, state)
        assert report.coverage == 1.0
        assert not report.missing + report.unexpected + report.mismatched
        return
    with pytest.raises(CheckpointError, match=f"{kind}, first") as error:
        checkpoint.load_into(model, state)
    assert all(name in str(error.value) for name in names)
    assert checkpoint.tensors_sha256(model.state_dict()) == before
    if excuses is None:
        assert "tables of weights" in str(error.value)
        with pytest.raises(CheckpointError, match="nothing was loaded"):
            checkpoint.load_into(model, state, allow_missing=["*"], allow_unexpected=["*"])
    else:
        report = checkpoint.load_into(model, state, **excuses)
        assert any(names[0] in name for name in getattr(report, kind)), "excused, and still listed"
        assert names[0] in str(report)
        assert report.loaded


def test_loading_loads():
    source, model = network(), network()
    report = checkpoint.load_into(model, source.state_dict())
    assert checkpoint.tensors_sha256(model.state_dict()) == checkpoint.tensors_sha256(source.state_dict())
    assert len(report.loaded) == len(model.state_dict())
    half = {name: value.half() if value.is_floating_point() else value for name, value in source.state_dict().items()}
    checkpoint.load_into(model, half)
    assert model["head"].weight.dtype == torch.float32
    assert torch.equal(model["head"].weight, source["head"].weight.half().float())


def test_coverage_is_the_share_of_values_and_a_floor_holds():
    model = network()
    partial = {name: value for name, value in network().state_dict().items() if name.startswith("head")}
    total = sum(value.numel() for value in model.state_dict().values())
    report = checkpoint.load_into(model, partial, allow_missing=["body.*"], min_coverage=10 / total)
    assert report.coverage == pytest.approx(10 / total)
    with pytest.raises(CheckpointError, match=r"is below the 90\.00 % asked for"):
        checkpoint.load_into(model, partial, allow_missing=["*"], min_coverage=0.9)


def test_a_name_that_two_prefixes_give_is_refused():
    state = network().state_dict()
    with pytest.raises(CheckpointError, match=r"`head\.bias` twice"):
        checkpoint.load_into(network(), {**state, "module.head.bias": torch.ones(2)})


# --- storage


def test_a_full_disk_by_file_size_limit_names_path_needed_and_free_bytes(tmp_path):
    checkpoint.save(tmp_path / "step-1.pt", state_of(1), step=1)

    def body():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        return storage_failure(lambda: checkpoint.save(tmp_path / "step-2.pt", state_of(2, 100_000), step=2))

    message = in_child(body)
    assert str(tmp_path / "step-2.pt") in message
    assert "needs 40" in message
    assert "are free there" in message
    assert_only_the_first_step_is_left(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_names_path_needed_and_free_bytes(small_disk):
    checkpoint.save(small_disk / "step-1.pt", state_of(1), step=1)
    message = storage_failure(lambda: checkpoint.save(small_disk / "step-2.pt", state_of(2, 100_000), step=2))
    assert str(small_disk / "step-2.pt") in message
    assert "No space left" in message
    assert "needs 40" in message
    assert_only_the_first_step_is_left(small_disk)


def test_a_disk_that_fills_up_keeps_the_overwritten_file(small_disk):
    checkpoint.save(small_disk / "last.pt", state_of(1), step=1)
    storage_failure(lambda: checkpoint.save(small_disk / "last.pt", state_of(2, 100_000), step=2))
    assert is_state_of(checkpoint.load(small_disk / "last.pt"), 1)


def assert_only_the_first_step_is_left(folder):
    assert is_state_of(checkpoint.load_latest(folder)[1], 1)
    assert sorted(item.name for item in folder.iterdir()) == ["latest", "step-1.pt", "step-1.pt.json"]


def test_a_missing_parent_a_folder_and_a_file_in_the_way_are_told_apart(tmp_path):
    missing = storage_failure(lambda: checkpoint.save(tmp_path / "none" / "a.pt", {}, step=1))
    assert f"the folder {tmp_path / 'none'} does not exist" in missing
    (tmp_path / "folder").mkdir()
    assert "folder is a folder" in storage_failure(lambda: checkpoint.write_atomic(tmp_path / "folder", "x"))
    (tmp_path / "file").write_text("x")
    in_the_way = storage_failure(lambda: checkpoint.write_atomic(tmp_path / "file" / "a.json", "x"))
    assert f"{tmp_path / 'file'} is not a folder" in in_the_way
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]
    assert issubclass(StorageError, UserError)


def test_a_read_only_folder_is_named():
    folder = Path(tempfile.mkdtemp())  # not below tmp_path, which another user cannot enter
    folder.chmod(0o555)

    def body():
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)  # the superuser may write anywhere
        return storage_failure(lambda: checkpoint.save(folder / "a.pt", {}, step=1))

    try:
        assert f"{folder} is read-only for this user" in in_child(body)
        assert not list(folder.iterdir())
    finally:
        folder.chmod(0o755)
        folder.rmdir()


def test_write_atomic_replaces_whole(tmp_path):
    path = checkpoint.write_atomic(tmp_path / "a.json", "äöü")
    assert path.read_text(encoding="utf-8") == "äöü"
    checkpoint.write_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_the_sweep_takes_only_the_leftovers_of_the_dead(tmp_path):
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    (tmp_path / "sub").mkdir()
    dead = [tmp_path / f".a.pt.{gone}.tmp", tmp_path / f".a.pt.{os.getpid()}.tmp", tmp_path / f"sub/.b.{gone}.tmp"]
    alive = [tmp_path / f".a.pt.{os.getppid()}.tmp", tmp_path / "a.tmp", tmp_path / ".hidden"]
    for path in dead + alive:
        path.write_text("x")
    assert sorted(checkpoint.sweep(tmp_path)) == sorted(dead)
    assert all(path.exists() for path in alive)


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
