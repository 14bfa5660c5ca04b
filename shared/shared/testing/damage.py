"""Files as they come from outside: damaged, hostile, or of another model; made on purpose for the fault cases.

    FILE_DAMAGE     checkpoint with a manifest -> what `checkpoint` must refuse; a case may strike file or manifest
    BARE_DAMAGE     weights without a manifest -> what can be noticed all the same
    POINTER_DAMAGE  contents of a file such as `latest`
    HOSTILE         pickles that make a canary when they are read carelessly
    DRIFT           weights whose names, shapes or types are not the model's

A damage is a function of the file's path. `resave` gives changed contents a manifest that fits, so that it is the
reading, not the hash, that has to refuse them.
"""

import builtins
import gzip
import io
import json
import os
import pickle
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint

Damage = Callable[[Path], Any]
BLOCK_BYTES = 64  # what is zeroed at once


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def bytes_of(path: Path) -> list[bytes | None]:
    """Of the file and of its manifest; None: not there."""
    return [one.read_bytes() if one.is_file() else None for one in (path, manifest_of(path))]


# --- files ------------------------------------------------------------------------------------------------------------


def truncate(length: int | Callable[[int], int]) -> Damage:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: length(len(data)) if callable(length) else length])

    return damage


def flip(part: float, bit: int) -> Damage:
    """One bit of the byte at that part (0..1) of the file."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(part * (len(data) - 1))] ^= 1 << bit
        path.write_bytes(data)

    return damage


def zero_block(part: float) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        start = int(part * (len(data) - BLOCK_BYTES))
        while not any(data[start : start + BLOCK_BYTES]):  # padding is zero already
            start -= BLOCK_BYTES
        data[start : start + BLOCK_BYTES] = bytes(BLOCK_BYTES)
        path.write_bytes(data)

    return damage


def flip_in_tensor(part: float, bit: int) -> Damage:
    """One bit of the largest tensor: the file stays readable, and only a checksum can tell."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            member = max(archive.infolist(), key=lambda member: member.file_size)
        data = bytearray(path.read_bytes())
        names = member.header_offset + 26  # two lengths, then the name and the padding before the bytes themselves
        lengths = [int.from_bytes(data[at : at + 2], "little") for at in (names, names + 2)]
        data[names + 4 + sum(lengths) + int(part * (member.file_size - 1))] ^= 1 << bit
        path.write_bytes(data)

    return damage


def replace_by(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def extend(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def be_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def be_anothers(path: Path) -> None:
    torch.save({"weights": torch.ones(2, 3)}, path)


# --- manifests --------------------------------------------------------------------------------------------------------


def manifest_by(content: bytes | None) -> Damage:
    def damage(path: Path) -> None:
        source = manifest_of(path)
        source.unlink() if content is None else source.write_bytes(content)

    return damage


def manifest_with(**changes: Any) -> Damage:
    """Other values, None: without the key. A function is given the old value."""

    def damage(path: Path) -> None:
        record = json.loads(manifest_of(path).read_text())
        for key, value in changes.items():
            record[key] = value(record[key]) if callable(value) else value
        manifest_of(path).write_text(json.dumps({k: v for k, v in record.items() if k not in changes or v is not None}))

    return damage


CUTS = [0, 1, 7, 8, lambda n: n // 4, lambda n: n // 2, lambda n: n * 99 // 100, lambda n: n - 1]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
NO_WEIGHTS: dict[str, Damage] = {
    **{f"truncated {number}": truncate(cut) for number, cut in enumerate(CUTS)},
    "HTML page": replace_by(b"<!DOCTYPE html>\n<html><body>404</body></html>"),
    "git-LFS pointer": replace_by(LFS),
    "gzip": replace_by(gzip.compress(b"weights")),
    "text": replace_by(b"hello"),
    "a folder": be_a_folder,
}
FILE_DAMAGE: dict[str, Damage] = {
    **NO_WEIGHTS,
    **{f"bit flip {number}": flip(number / 19, number % 8) for number in range(20)},
    **{f"zeroed block {number}": zero_block((number + 0.5) / 10) for number in range(10)},
    "twice": extend(lambda data: 2 * data),
    "one byte more": extend(lambda data: data + b"\0"),
    "another's": be_anothers,
    "manifest missing": manifest_by(None),
    "manifest not JSON": manifest_by(b"{'sha256': 1}"),
    "manifest cut": manifest_by(b'{"sha256": "ab'),
    "manifest empty": manifest_by(b""),
    "manifest binary": manifest_by(b"\xff\xfe\x00\x01"),
    "manifest a list": manifest_by(b"[1, 2]"),
    "manifest deeply nested": manifest_by(b"[" * 100_000),
    "manifest without keys": manifest_by(b"{}"),
    "manifest of a future schema": manifest_with(schema=99),
    "manifest with a schema as text": manifest_with(schema="1"),
    "manifest with another hash": manifest_with(sha256="0" * 64),
    "manifest without a hash": manifest_with(sha256=None),
    "manifest with another size": manifest_with(bytes=lambda size: size + 1),
    "manifest with a size as text": manifest_with(bytes=str),
    "manifest without a step": manifest_with(step=None),
}
BARE_DAMAGE: dict[str, Damage] = {
    **NO_WEIGHTS,
    **{f"bit flip in a tensor {number}": flip_in_tensor(number / 7, number) for number in range(8)},
    "another's": be_anothers,
}
POINTER_DAMAGE = {
    "empty": b"",
    "blank": b"  \n",
    "dangling": b"step-9.pt\n",
    "binary": b"\xff\xfe\x00",
    "above the folder": b"../outside.pt\n",
    "absolute": b"/nowhere/outside.pt\n",
    "the folder itself": b"..\n",
}


# --- contents ---------------------------------------------------------------------------------------------------------


def content_of(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def resave(path: Path, content: Any) -> None:
    """Write another content, with a manifest that fits if there is one."""
    torch.save(content, path)
    vouch(path)


def vouch(path: Path) -> None:
    """Let the manifest, if there is one, speak of the bytes as they are now."""
    if manifest_of(path).exists():
        manifest_with(sha256=checkpoint.sha256_of(path), bytes=path.stat().st_size)(path)


# --- hostile pickles --------------------------------------------------------------------------------------------------


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def shell(canary: Path) -> Call:
    return Call(os.system, f"touch {canary}")


def _legacy_tar(path: Path, payload: Any) -> None:
    with tarfile.open(path, "w") as archive:
        for name, value in {"storages": 0, "tensors": 0, "pickle": payload}.items():
            data = pickle.dumps(value, 2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _deep_in_optimizer(content: Mapping, payload: Any) -> dict[str, Any]:
    return {**content, "optimizer": {"state": {0: {"exp_avg": [{"deep": payload}]}}}}


# name -> (function of path, canary and the content that the file had, the global that a refusal names)
HOSTILE: dict[str, tuple[Callable[[Path, Path, Mapping], Any], str]] = {
    "os.system": (lambda p, c, _: torch.save(shell(c), p), "system"),
    "builtins.exec": (
        lambda p, c, old: torch.save({**old, "a": Call(builtins.exec, f"open({str(c)!r}, 'w')")}, p),
        "exec",
    ),
    "builtins.eval": (
        lambda p, c, old: torch.save({**old, "a": Call(builtins.eval, f"open({str(c)!r}, 'w')")}, p),
        "eval",
    ),
    "subprocess": (lambda p, c, _: torch.save([Call(subprocess.Popen, ["touch", str(c)])], p), "Popen"),
    "in optimizer state": (lambda p, c, old: torch.save(_deep_in_optimizer(old, shell(c)), p), "system"),
    "legacy .pth": (
        lambda p, c, old: torch.save({**old, "x": shell(c)}, p, _use_new_zipfile_serialization=False),
        "system",
    ),
    "legacy tar": (lambda p, c, _: _legacy_tar(p, shell(c)), "system"),
    "bare pickle, protocol 4": (lambda p, c, _: p.write_bytes(pickle.dumps(shell(c), protocol=4)), "system"),
}


# --- weights of another model -----------------------------------------------------------------------------------------


def _renamed(prefix: str) -> Callable[[Mapping, str], dict[str, Any]]:
    return lambda weights, _: {f"{prefix}{name}": value for name, value in weights.items()}


WRAPPED = {"module.": "module.", "_orig_mod.": "_orig_mod.module."}  # prefixes that mean nothing: these are taken
# name -> function of the weights and of the name of one of them
CHANGES: dict[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
    "missing": lambda weights, name: {key: value for key, value in weights.items() if key != name},
    "unexpected": lambda weights, _: {**weights, "extra.weight": torch.ones(2)},
    "wrong shape": lambda weights, name: {**weights, name: weights[name][..., None]},
    "wrong dtype": lambda weights, name: {**weights, name: weights[name].long()},
    **{case: _renamed(prefix) for case, prefix in WRAPPED.items()},
}
DRIFT = (*CHANGES, "average alone", "another layout")


def drift(path: Path, table: str, case: str, needed: str = "") -> str:
    """Change the weights in a checkpoint; `table` is the key they stand under ("": they are the file).

    The one that is changed is the largest whose name begins with `needed`: no reader can do without it.

    Returns what a report has to name: the end of a tensor's name, as readers may take its first part off.
    """
    content = content_of(path)
    weights = content[table] if table else content
    rest = {key: value for key, value in content.items() if table and key != table}
    if case == "another layout":
        resave(path, {"net": {f"layers.{number}": value for number, value in enumerate(weights.values())}})
        return ""
    if case == "average alone":
        resave(path, {**rest, "ema": {"shadow": dict(weights)}})
        return ""
    name = max((name for name in weights if name.startswith(needed)), key=lambda name: weights[name].numel())
    changed = CHANGES[case](weights, name)
    resave(path, {**rest, table: changed} if table else changed)
    told = {"unexpected": "extra", **dict.fromkeys(WRAPPED, "")}
    return told.get(case, name.partition(".")[2])
