"""Reading weights that may be damaged, hostile or of another model.

`read_state` unpickles with torch's safe unpickler and nothing else: a refusal names the offending global and is not
tried again in an unsafe way. `load_into` puts a state dict into a model, or leaves the model as it was and says exactly
which tensors were missing, unexpected or of another shape.
"""

import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from .errors import CheckpointError

PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
SHOWN = 5  # names of each kind that a report lists
PICKLE_LIMIT_BYTES = 64 << 20  # no honest checkpoint's pickle (without its tensors) is larger
REFUSED_GLOBAL = re.compile(r"GLOBAL (\S+)")
HARMLESS_MODULES = ("torch", "collections", "_codecs")  # what honest checkpoints name


def read_state(file: BinaryIO, path: Path, map_location: Any = "cpu") -> dict:
    """Unpickle a checkpoint (tensors and plain Python only) from an open file.

    Raises:
        CheckpointError: it is no checkpoint, is damaged, holds something else than a dict, or asks for a global that
            the safe unpickler refuses (which is then named).
    """
    try:
        state = torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise CheckpointError(_refusal(file, path, error)) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a dict of weights; it cannot be used here.")
    return state


def _refusal(file: BinaryIO, path: Path, error: Exception) -> str:
    named = REFUSED_GLOBAL.search(str(error))
    offending = named[1] if named else _offending_global(file)
    if offending:
        return (
            f"{path} was refused: its pickle asks for `{offending}`, which may run code. It was not loaded. "
            "Get the weights from a source you trust, saved as tensors only (a state dict, or .safetensors)."
        )
    kind = foreign_kind(path)
    reason = f"it is {kind}" if kind else f"{type(error).__name__}: {_last_line(error)}"
    return f"{path} cannot be read as a checkpoint: {reason}. Fetch or save it again."


def _last_line(error: Exception) -> str:
    """torch wraps its reason in advice to load unsafely, which we do not pass on."""
    text = str(error).split("WeightsUnpickler error:")[-1].split("Check the documentation")[0].strip()
    lines = [line for line in text.splitlines() if line.strip() and "weights_only" not in line]
    return lines[-1].strip() if lines else "not a file that the safe unpickler reads"


def _offending_global(file: BinaryIO) -> str | None:
    try:
        return next(_suspicious_globals(file), None)
    except Exception:  # a damaged archive may raise anything; that the file is refused does not hang on the name
        return None


def _suspicious_globals(file: BinaryIO) -> Iterator[str]:
    """Globals named by the pickles of a file, beyond what honest checkpoints name; nothing is executed."""
    for stream in _pickles(file):
        strings: list[str] = []
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST"):
                name = argument.replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                name = ".".join(strings[-2:])
            else:
                strings += [argument] if isinstance(argument, str) else []
                continue
            if name.split(".")[0] not in HARMLESS_MODULES:
                yield name


def _pickles(file: BinaryIO) -> Iterator[bytes]:
    """The pickles inside a checkpoint: of the zip format, of the legacy tar, or the bare stream."""
    file.seek(0)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".pkl")]
            yield from (archive.read(member) for member in members if member.file_size < PICKLE_LIMIT_BYTES)
        return
    file.seek(0)
    if tarfile.is_tarfile(file):
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            small = [member for member in archive.getmembers() if member.size < PICKLE_LIMIT_BYTES]
            members = [archive.extractfile(member) for member in small]
            yield from (member.read() for member in members if member)
        return
    file.seek(0)
    yield file.read()


def broken_part(file: BinaryIO) -> str | None:
    """The part of a zip checkpoint, if any, whose bytes do not have the checksum that the archive gives for them.

    torch.load does not look at these checksums. A writer may leave them out (0), and then nothing is known.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            known = any(member.CRC for member in archive.infolist())
            return archive.testzip() if known else None
    except Exception:  # no zip, or one so damaged that anything may be raised: reading it says what it is
        return None
    finally:
        file.seek(0)


def foreign_kind(path: Path) -> str | None:
    """What a file that is no checkpoint looks like: the usual results of a failed download."""
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip().lower()
    if not head:
        return "an empty file"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML page (a login or error page saved by a download)"
    if head.startswith(b"version https://git-lfs"):
        return "a git-LFS pointer, not the file it stands for (run `git lfs pull`)"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive (unpack it first)"
    return None


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of a model and of a file; `coverage` is the share of the model's values loaded."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]  # "name: file (3, 4) float32, model (3, 5) float32"
    coverage: float  # 0..1

    def summary(self) -> str:
        """One line, then one line for each kind of deviation, with its first five names."""
        lines = [f"loaded {len(self.loaded)} tensors, {100 * self.coverage:.1f} % of the model's values"]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            if names:
                more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{more}")
        return "\n  ".join(lines)

    __str__ = summary


def load_into(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    allow_mismatched: Sequence[str] = (),
    min_coverage: float | None = None,
    source: Path | str | None = None,
) -> LoadReport:
    """Load a state dict into a model, strictly unless told otherwise; on failure the model keeps its values.

    Args:
        allow_missing, allow_unexpected, allow_mismatched: fnmatch patterns of names that may deviate (still reported).
        min_coverage: least share (0..1) of the model's values that must be loaded. Unset: everything that the patterns
            do not excuse, and never nothing at all.
        source: the file that an error shall name.

    Raises:
        CheckpointError: with the report.
    """
    own = model.state_dict()
    theirs = _without_prefixes(state_dict, own)
    report, accepted = _compare(own, theirs)
    problems = [
        *_refused("missing", report.missing, allow_missing),
        *_refused("unexpected", report.unexpected, allow_unexpected),
        *_refused("mismatched", report.mismatched, allow_mismatched),
    ]
    if own and not report.loaded:
        problems.append("nothing was loaded")
    if min_coverage is not None and report.coverage < min_coverage:
        problems.append(f"coverage {100 * report.coverage:.2f} % is below the {100 * min_coverage:.2f} % asked for")
    if problems:
        hint = _nested_hint(state_dict) or " Give weights of this very network, or the settings that they belong to."
        where = f"{source}: " if source else ""
        raise CheckpointError(
            f"{where}the weights do not fit {type(model).__name__}: {'; '.join(problems)}.{hint}\n  {report}"
        )
    model.load_state_dict(accepted, strict=False)
    return report


def _without_prefixes(state_dict: Mapping, own: Mapping) -> dict[str, Any]:
    """Wrappers' prefixes are taken off names that the model does not know."""
    theirs: dict[str, Any] = {}
    for key, value in state_dict.items():
        name = _without_prefix(str(key), own)
        if name in theirs:
            raise CheckpointError(f"the weights name `{name}` twice (once as `{key}`): which one is meant is unclear.")
        theirs[name] = value
    return theirs


def _without_prefix(key: str, own: Mapping) -> str:
    name = key
    while name not in own:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return key
        name = name.removeprefix(prefix)
    return name


def _compare(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[LoadReport, dict[str, Any]]:
    common = [name for name in own if name in theirs]
    fits = {name: theirs[name] for name in common if _fits(own[name], theirs[name])}
    total = sum(_values(value) for value in own.values())
    loaded = sum(_values(own[name]) for name in fits)
    report = LoadReport(
        loaded=tuple(fits),
        missing=tuple(name for name in own if name not in theirs),
        unexpected=tuple(name for name in theirs if name not in own),
        mismatched=tuple(
            f"{name}: file {_form(theirs[name])}, model {_form(own[name])}" for name in common if name not in fits
        ),
        coverage=loaded / total if total else 1.0,
    )
    return report, fits


def _fits(mine: Any, theirs: Any) -> bool:
    """Same shape and the same kind of number; float16 into float32 is a cast, an integer into a float a mistake."""
    if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
        return isinstance(mine, Tensor) == isinstance(theirs, Tensor)
    return mine.shape == theirs.shape and _kind(mine) == _kind(theirs)


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    if tensor.is_floating_point():
        return "float"
    return "bool" if tensor.dtype == torch.bool else "integer"


def _values(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else 0


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def _refused(kind: str, names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    bad = [name for name in names if not any(fnmatchcase(name.split(": file ")[0], pattern) for pattern in patterns)]
    return [f"{len(bad)} {kind}, first `{bad[0]}`"] if bad else []


def _nested_hint(state_dict: Mapping[str, Any]) -> str:
    tables = [str(key) for key, value in state_dict.items() if isinstance(value, Mapping) and value]
    return f" The file holds tables of weights ({', '.join(tables[:SHOWN])}): pass one of them." if tables else ""
