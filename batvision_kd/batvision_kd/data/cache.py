"""Prepared arrays on disk: a spectrogram, a resized picture or depth map is computed once and read from then on.

    cache = ArrayCache(folder)
    array = cache.get("audio", (settings.to_dict(), 30.0), record.audio, lambda: ...)

An entry's name follows from what was asked (kind, settings, version of this code's maths) and from the source files
(path, size, time of change), so other settings or a changed file never meet an old entry. Each entry carries a check
sum; a damaged one is made again. Entries are float32 or uint8 as they were computed: the cache changes no number. They
take about 1 MB a record at 256 x 256 (spectrogram 512 KiB, depth 256 KiB, picture 192 KiB).
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import DataError
from shared.storage import storage_error

VERSION = 1  # raise it with every change of what is computed


class ArrayCache:
    """A folder of arrays. Several processes may use it at once: an entry appears whole or not at all."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def get(self, kind: str, asked: Any, sources: Sequence[Path], make: Callable[[], np.ndarray]) -> np.ndarray:
        """The entry, or the result of `make()`, which is then kept.

        kind: what it is ("audio"); a folder of its own. asked: JSON-able settings that decide the result.
        Raises StorageError when the folder refuses to be written.
        """
        path = self._path(kind, asked, sources)
        found = _read(path)
        if found is None:
            found = np.ascontiguousarray(make())
            _write(path, found)
        return found

    def _path(self, kind: str, asked: Any, sources: Sequence[Path]) -> Path:
        settings = json.dumps([VERSION, kind, asked], sort_keys=True)
        identity = json.dumps([_identity(source) for source in sources])
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        return self.folder / f"{kind}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}" / name[:2] / f"{name}.arr"


def _identity(source: Path) -> tuple[str, int, int]:
    try:
        status = source.stat()
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}): copy it again.") from None
    return str(source.absolute()), status.st_size, status.st_mtime_ns


def _read(path: Path) -> np.ndarray | None:
    """The array, or None when there is no entry or a damaged one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(content) < 4 or zlib.crc32(content[4:]) != int.from_bytes(content[:4], "little"):
        return None
    return np.load(io.BytesIO(content[4:]), allow_pickle=False)


def _write(path: Path, array: np.ndarray) -> None:
    """Not forced to disk: after a power cut the check sum tells, and the entry is made again."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(zlib.crc32(content).to_bytes(4, "little") + content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(path, error, len(content)) from error
