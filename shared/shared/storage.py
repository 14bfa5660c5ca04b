"""Files that are either whole or absent.

A file is written under a temporary name in its own folder, forced to disk, and renamed over the final name: whoever
looks, at any moment, and after any kind of death, sees the old file or the new one and never a part. Failures of the
file system (full disk, read-only folder, missing parent) become a `StorageError` that says what to do.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .errors import StorageError

TEMPORARY_NAME = re.compile(r"\..+\.(?P<pid>\d+)\.tmp")
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
WRONG_KIND = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST}


class AtomicFile:
    """A file being written under a temporary name; `publish` gives it its own.

    It counts and hashes what passes through. A failing write is kept and raised by `finish`, not at once: torch.save
    answers an exception from its file with an unrelated one of its own, and this way `bytes` is the whole size needed.
    """

    def __init__(self, file: BinaryIO, temporary: Path, path: Path):
        self.bytes = 0
        self._file, self._temporary, self._path = file, temporary, path
        self._sha256 = hashlib.sha256()
        self._failure: OSError | None = None

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        size = memoryview(data).nbytes
        self._sha256.update(data)
        self.bytes += size
        if self._failure is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._failure = error
        return size

    def flush(self) -> None:
        """Nothing to do before `finish`; torch.save asks for it."""

    def finish(self) -> None:
        """Force the bytes to disk, still under the temporary name; raises OSError when any write failed."""
        if self._failure is not None:
            raise self._failure
        self._file.flush()
        os.fsync(self._file.fileno())

    def publish(self) -> None:
        """Finish, then rename to the final name and force the folder to disk."""
        self.finish()
        self._temporary.replace(self._path)
        _sync_folder(self._path.parent)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[AtomicFile]:
    """An `AtomicFile` for `path`; left without `publish`, it leaves nothing behind.

    Raises:
        StorageError: the file system refused.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    needed_bytes = 0
    try:
        with temporary.open("wb") as file:
            atomic = AtomicFile(file, temporary, path)
            try:
                yield atomic
            finally:
                needed_bytes = atomic.bytes
    except OSError as error:
        raise storage_error(path, error, needed_bytes) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path | str, content: str | bytes) -> Path:
    """Write a small file (JSON, text) so that it is whole or absent.

    Raises:
        StorageError: the file system refused; an earlier file of that name is untouched.
    """
    path = Path(path)
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.publish()
    return path


def storage_error(path: Path, error: OSError, needed_bytes: int = 0) -> StorageError:
    """The file system's refusal in words a person can act on."""
    if error.errno in NO_SPACE:
        why = f"{error.strerror}; it needs {needed_bytes:,} bytes and {_free_bytes(path)} are free there"
        limit = " or raise the file size limit (ulimit -f)" if error.errno == errno.EFBIG else ""
        remedy = f"Free some space{limit} and run the same command again; what was saved before is untouched."
    elif error.errno == errno.ENOENT:
        why, remedy = f"the folder {path.parent} does not exist", "Create it, or correct the path."
    elif error.errno in WRONG_KIND:
        culprit = path if path.exists() else path.parent
        kind = "is a folder" if culprit.is_dir() else "is not a folder"
        why, remedy = f"{culprit} {kind}", "Move it out of the way, or choose another path."
    elif error.errno in READ_ONLY:
        why = f"{path.parent} is read-only for this user ({error.strerror})"
        remedy = "Choose another folder, or change its permissions."
    else:
        why, remedy = f"{error.strerror or error}", "Check the disk, and run the same command again."
    return StorageError(f"{path} could not be written: {why}. {remedy}")


def make_folder(folder: Path, named: Path | None = None) -> Path:
    """Make a folder and those above it where they are missing. StorageError, about `named`, when it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(named or folder, error) from error
    return folder


def _free_bytes(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free:,}"
    except OSError:
        return "an unknown number"


def _sync_folder(folder: Path) -> None:
    """Without this a rename may be lost in a power cut; some network file systems do not offer it (EINVAL)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path | str) -> list[Path]:
    """Remove temporary files that dead processes left in a folder (and below); returns what was removed.

    A file that carries this process's own id is a leftover too: restarted containers hand out the same ids again.
    """
    removed = []
    for path in sorted(Path(folder).rglob(".*.tmp")):
        name = TEMPORARY_NAME.fullmatch(path.name)
        if name and not _is_another_process(int(name["pid"])):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def _is_another_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def sha256_of(path: Path | str) -> str:
    """Hex sha256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, dtypes, shapes and bytes, in any order, on any device: a frozen teacher's fingerprint."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
