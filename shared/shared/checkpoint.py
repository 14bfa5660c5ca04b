"""Checkpoints that survive a kill at any moment, and damage that is never accepted silently.

Saving `step_100.pt` leaves three files, each whole or absent (see `storage`):

    step_100.pt        the state: tensors and plain Python, nothing else
    step_100.pt.json   its manifest: sha256, size, schema, step, config, versions, time
    latest             a text file that holds the name `step_100.pt`

The manifest is in place before the file it vouches for, and while a name is being overwritten it vouches for the old
and the new bytes alike: at every instant the file under the final name is verifiable. Loading requires the manifest and
verifies it; `load_latest` falls back to the newest good file and says so. Unpickling is safe (`loading`).
"""

import contextlib
import hashlib
import json
import logging
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from .errors import CheckpointError, StorageError
from .loading import LoadReport, broken_part, foreign_kind, load_into, read_state
from .machine import code_version
from .storage import atomic_file, sha256_of, sweep, tensors_sha256, write_atomic

__all__ = [
    "LoadReport",
    "StorageError",
    "code_version",
    "load",
    "load_into",
    "load_latest",
    "load_weights",
    "manifest",
    "prune",
    "rng_state",
    "save",
    "set_rng_state",
    "sha256_of",
    "sweep",
    "tensors_sha256",
    "write_atomic",
]

SCHEMA = 1  # newest manifest layout this code reads and writes
PATTERN = "*.pt"  # checkpoints of a folder
POINTERS = ("latest", "best")  # names of files whose checkpoint is never pruned
REQUIRED = {"sha256": str, "bytes": int, "schema": int, "step": int}
SCALARS = (str, int, float, bool, type(None))  # exact types: numpy's float64 is a subclass of float

log = logging.getLogger(__name__)


# ---------------------------------------------------------------- saving


def save(
    path: Path | str,
    state: Mapping[str, Any],
    *,
    step: int,
    config: Mapping | None = None,
    pointers: Sequence[str] = ("latest",),
    extra: Mapping | None = None,
) -> Path:
    """Save a state with its manifest, then point the named pointer files at it.

    Args:
        path: final name; its folder must exist.
        state: tensors and plain Python (dict, list, tuple, str, int, float, bool, None), nested.
        step: position in training; `load_latest` and `prune` order by it.
        config, extra: JSON data to keep in the manifest.
        pointers: names of text files, in the same folder, that shall name this checkpoint.

    Raises:
        TypeError: the state holds something else; the message names the key path.
        StorageError: the file system refused; the earlier checkpoint is untouched.
    """
    path = Path(path)
    _check_plain(state, "state")
    record = _new_record(step, config, extra)
    earlier = _earlier_record(path)
    with atomic_file(path) as file:
        torch.save(dict(state), file)
        file.finish()
        record |= {"sha256": file.sha256, "bytes": file.bytes}
        _write_manifest(path, record if earlier is None else {**record, "previous": earlier})
        file.publish()
    if earlier is not None:
        _write_manifest(path, record)
    for pointer in pointers:
        write_atomic(path.parent / pointer, f"{path.name}\n")
    return path


def _check_plain(value: Any, where: str) -> None:
    """The safe unpickler refuses anything else, so a state that holds it could be saved but never resumed."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain_key(key, where)
            _check_plain(item, f"{where}[{key!r}]")
    elif kind in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif kind not in (*SCALARS, Tensor, nn.Parameter):
        raise TypeError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}; a checkpoint holds tensors and plain Python only "
            "(dict, list, tuple, str, int, float, bool, None): convert it first, e.g. with float(), str() or dict()."
        )


def _check_plain_key(key: Any, where: str) -> None:
    if type(key) not in SCALARS:
        raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}; use str, int, float or bool.")


def _new_record(step: int, config: Mapping | None, extra: Mapping | None) -> dict[str, Any]:
    record = {
        "schema": SCHEMA,
        "step": int(step),
        "config": config,
        "code": code_version(),
        "torch": torch.__version__,
        "time_utc": datetime.now(UTC).isoformat(),
        "extra": extra,
    }
    json.dumps(record)  # a TypeError belongs here, before anything is written
    return record


def _earlier_record(path: Path) -> dict[str, Any] | None:
    """The record of a good checkpoint that is about to be overwritten."""
    if not path.exists():
        return None
    try:
        return manifest(path)
    except CheckpointError:
        return None


def _write_manifest(path: Path, record: Mapping) -> None:
    write_atomic(_manifest_path(path), json.dumps(record, indent=1) + "\n")


def _manifest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


# ---------------------------------------------------------------- loading


def manifest(path: Path | str) -> dict[str, Any]:
    """The manifest of a checkpoint: present, JSON, of a known schema, and of a file of the size it names.

    Raises:
        CheckpointError: with file, reason and remedy.
    """
    path = Path(path)
    record = _read_manifest(path)
    previous = record.pop("previous", None)
    if previous is not None and sha256_of(path) == previous.get("sha256"):  # a save was cut before its rename
        _check_record(path, previous)
        record = previous
    if path.stat().st_size != record["bytes"]:
        raise _damaged(path, f"it has {path.stat().st_size:,} bytes, its manifest says {record['bytes']:,}")
    return record


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file; check the path.")
    try:
        record = json.loads(_manifest_path(path).read_bytes())
    except FileNotFoundError:
        raise _damaged(path, f"its manifest {_manifest_path(path).name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its manifest {_manifest_path(path).name} is not JSON ({error})") from error
    _check_record(path, record)
    return record


def _check_record(path: Path, record: Any) -> None:
    if not isinstance(record, dict) or not isinstance(record.get("previous", {}), dict):
        raise _damaged(path, "its manifest is not a table")
    wrong = [key for key, kind in REQUIRED.items() if type(record.get(key)) is not kind]
    if wrong:
        raise _damaged(path, f"its manifest has no valid {', '.join(wrong)}")
    if not 1 <= record["schema"] <= SCHEMA:
        raise CheckpointError(
            f"{path}: its manifest has schema {record['schema']}, and this code reads up to {SCHEMA}. "
            "It was written by a newer version: update this code."
        )


def _damaged(path: Path, reason: str) -> CheckpointError:
    kind = foreign_kind(path)
    looks = f" (it is {kind})" if kind else ""
    return CheckpointError(
        f"{path} is damaged: {reason}{looks}. Restore it together with its manifest from a copy, "
        "or remove both so that an earlier checkpoint is used."
    )


def load(path: Path | str, *, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint that `save` wrote, verified against its manifest byte by byte.

    Raises:
        CheckpointError: missing, damaged or refused; file, reason and remedy are named.
    """
    path = Path(path)
    record = manifest(path)
    with path.open("rb") as file:
        _verify(file, path, record["sha256"])
        return read_state(file, path, map_location)


def _verify(file: BinaryIO, path: Path, expected: str) -> None:
    actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected.lower():
        raise _damaged(path, f"its sha256 is {actual}, expected {expected}")
    file.seek(0)


def load_latest(
    folder: Path | str, pointer: str = "latest", *, map_location: Any = "cpu"
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a folder's pointer names, else the newest good one by its manifest's step.

    Returns:
        (path, state), or None when the folder holds no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints and none is good, or the pointer leads out of the folder.
    """
    folder = Path(folder)
    candidates = sorted(folder.glob(PATTERN))
    named = _pointed_at(folder, pointer)
    if not candidates and named is None:
        return None
    reasons: list[str] = []
    if named is not None:
        with _noting(reasons):
            return named, load(named, map_location=map_location)
    for path in _newest_first([path for path in candidates if path != named], reasons):
        with _noting(reasons):
            state = load(path, map_location=map_location)
            log.warning("falling back to %s (step %s), the newest good checkpoint", path, manifest(path)["step"])
            return path, state
    raise CheckpointError(
        f"{folder} holds {len(candidates)} checkpoint(s) and none is good:\n  " + "\n  ".join(dict.fromkeys(reasons))
    )


@contextlib.contextmanager
def _noting(reasons: list[str]):
    """A damaged checkpoint is a warning, and a reason should no other be good."""
    try:
        yield
    except CheckpointError as error:
        log.warning("%s", error)
        reasons.append(str(error))


def _newest_first(paths: Sequence[Path], reasons: list[str]) -> list[Path]:
    records = {}
    for path in paths:
        with _noting(reasons):
            records[path] = manifest(path)
    return sorted(records, key=lambda path: (records[path]["step"], records[path].get("time_utc", "")), reverse=True)


def _pointed_at(folder: Path, pointer: str) -> Path | None:
    """The file a pointer names; None, with a warning, when it names nothing."""
    source = folder / pointer
    try:
        name = source.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        log.warning("the pointer %s cannot be read (%s)", source, error)
        return None
    if not name:
        log.warning("the pointer %s is empty", source)
        return None
    if name in (".", "..") or "/" in name or "\0" in name:
        raise CheckpointError(
            f"the pointer {source} names {name!r}, which leads out of its folder. No save writes that: "
            "remove the pointer, and the newest good checkpoint is used."
        )
    if not (folder / name).is_file():
        log.warning("the pointer %s names %s, which does not exist", source, name)
    return folder / name


def load_weights(path: Path | str, sha256: str | None = None, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Weights from elsewhere (.pth, .pt, .safetensors), as the file holds them: nothing is unwrapped.

    Verified against the manifest beside the file, else against `sha256`; with neither, the hash is logged with a
    warning that integrity was not verified.

    Raises:
        CheckpointError: missing, damaged, refused, or not weights at all (HTML page, git-LFS pointer, gzip, empty).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file; check the path.")
    expected = [manifest(path)["sha256"]] if _manifest_path(path).exists() else []
    expected += [sha256] if sha256 else []
    if kind := foreign_kind(path):
        raise CheckpointError(f"{path} holds no weights: it is {kind}. Fetch it again.")
    if not expected:
        log.warning(
            "%s: integrity not verified (no manifest, no sha256 given); its sha256 is %s", path, sha256_of(path)
        )
    with path.open("rb") as file:
        for value in expected:
            _verify(file, path, value)
        if not expected and (part := broken_part(file)):
            raise CheckpointError(f"{path} is damaged: its part {part} has not the checksum it had. Fetch it again.")
        if path.suffix == ".safetensors":
            return _read_safetensors(path, map_location)
        return read_state(file, path, map_location)


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    import safetensors.torch  # late: few runs read such a file

    try:
        return safetensors.torch.load_file(path, device=str(map_location))
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}. Fetch it again.") from error


# ---------------------------------------------------------------- housekeeping


def prune(folder: Path | str, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints; returns what was removed.

    Only files that `save` wrote are candidates, and never one that a pointer names. A failed removal only warns.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    folder = Path(folder)
    protected, steps = set(), {}
    for pointer in POINTERS:
        with _noting([]):
            protected.add(_pointed_at(folder, pointer))
    for path in folder.glob(PATTERN):
        with contextlib.suppress(CheckpointError):
            steps[path] = manifest(path)["step"]
    oldest = sorted(steps, key=steps.__getitem__, reverse=True)[keep:]
    return [path for path in oldest if path not in protected and _remove(path)]


def _remove(path: Path) -> bool:
    try:
        path.unlink()  # first, so that a manifest never lacks behind: a file without one would count as damaged
        _manifest_path(path).unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be removed (%s); continuing", path, error)
        return False
    return True


# ---------------------------------------------------------------- random generators


def rng_state() -> dict[str, Any]:
    """States of Python's, numpy's, torch's and the current CUDA device's generators, as a checkpoint may hold them."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - libraries draw from it
    return {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put every generator back to where `rng_state` found it."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if (state["cuda"] is not None) != torch.cuda.is_available():
        log.warning("the checkpoint's device differs from this one: random draws on it will not repeat exactly")
    elif state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu())
