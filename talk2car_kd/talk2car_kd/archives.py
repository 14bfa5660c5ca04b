"""Fetching and unpacking archives so that a final name only ever holds something complete and checked.

Download: into `<name>.part`, continued where it stopped, renamed to its name once size, hash and kind are right. A
.part that can be continued is kept; one that is wrong is removed. Unpacking: every name in the archive is judged before
anything is written; files go to a hidden folder beside the target, which is moved into place when all are out.
"""

import hashlib
import http.client
import os
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from shared.errors import DataError, StorageError
from shared.storage import storage_error

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
MAX_ENTRIES = 300_000  # COCO's largest archive has 118,288
MAX_RATIO = 200  # of unpacked to packed size; deflate reaches 1032, JSON about 10
SPARE_BYTES = 64 << 20  # left free on the disk
WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: unknown)


# Download -------------------------------------------------------------------------------------------------------------


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress = lambda done, total: None,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch `url` to `target`, continuing an earlier `<target>.part`; a target that is there already is only checked.

    Args:
        size, sha256: what the file must be, where known.
    Raises:
        DataError: unreachable, refused, cut short, a web page instead of the file, wrong size or hash. Nothing is at
            `target` then; the .part stays only where the same call can continue it.
        StorageError: the disk cannot hold it, or the folder cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: is no web address; it must begin with http:// or https://")
    part = target.with_name(target.name + ".part")
    try:
        if target.exists():
            _refuse_wrong(target, size, sha256, "remove it and run the same command again")
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, size, progress, timeout_s)
        try:
            _refuse_wrong(part, size, sha256, f"it was removed; fetch {url} again or check the address")
        except DataError:
            part.unlink()
            raise
        return part.replace(target)
    except OSError as error:
        raise storage_error(part, error, size or 0) from error


def _fetch(url: str, part: Path, size: int | None, progress: Progress, timeout_s: float) -> None:
    """Bring `part` to its full length."""
    done = part.stat().st_size if part.exists() else 0
    if size is not None and done >= size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            offset = done if reply.status == 206 else 0
            _receive(reply, url, part, offset, _total_bytes(reply, url, offset, size), progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing lies beyond what we have
            return
        raise DataError(
            f"{url}: the server answers {error.code} {error.reason}; check the address, try later"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        kept = part.stat().st_size if part.exists() else 0
        raise DataError(
            f"{url}: cannot be reached or broke off ({reason}); connect to the network and run the same command again, "
            f"it continues after the {kept:,} bytes that are there"
        ) from error


def _total_bytes(reply: http.client.HTTPResponse, url: str, offset: int, size: int | None) -> int | None:
    """Length of the whole file as the server gives it. DataError if it, or the kind of reply, is not the one wanted."""
    if reply.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise DataError(
            f"{url}: the server sent a web page, not the file (a login or error page?); open it in a browser"
        )
    length = reply.headers.get("Content-Length")
    total = None if length is None else offset + int(length)
    if None not in (total, size) and total != size:
        raise DataError(f"{url}: the server's file has {total:,} bytes, not {size:,}; check the address")
    return total


def _receive(
    reply: http.client.HTTPResponse, url: str, part: Path, offset: int, total: int | None, progress: Progress
) -> None:
    """Write the reply's body into `part` from `offset` on."""
    _room_for(part.parent, (total or offset) - offset)
    with part.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        while chunk := reply.read(CHUNK_BYTES):
            file.write(chunk)
            progress(file.tell(), total)
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() < total:
            raise DataError(
                f"{url}: was cut short at {file.tell():,} of {total:,} bytes; run the same command again, it continues"
            )


def _refuse_wrong(path: Path, size: int | None, sha256: str | None, remedy: str) -> None:
    """DataError if the file is not what it should be."""
    fault = _fault(path, size, sha256)
    if fault:
        raise DataError(f"{path}: {fault}; {remedy}")


def _fault(path: Path, size: int | None, sha256: str | None) -> str | None:
    found = path.stat().st_size
    with path.open("rb") as file:
        if file.read(64).lstrip().lower().startswith(WEB_PAGE):
            return "is a web page, not the file"
        if size is not None and found != size:
            return f"has {found:,} bytes, not {size:,}"
        file.seek(0)
        digest = None if sha256 is None else hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest == sha256 else f"has sha256 {digest}, not {sha256}"


# Unpacking ------------------------------------------------------------------------------------------------------------


def extract(
    archive: Path, folder: Path, *, only: Sequence[str] | None = None, max_bytes: int | None = None
) -> list[Path]:
    """Unpack a zip archive's top-level folders (or files) into `folder` and return their paths.

    Args:
        only: the top-level names wanted; others are left in the archive.
        max_bytes: most bytes the unpacked files may have; default: what the disk holds.
    Raises:
        DataError: no zip, damaged (CRC), or an archive that no honest tool makes: names that are absolute, contain `..`
            or NUL or occur twice, links, devices, encryption, absurd compression. Nothing new is in `folder` then.
        StorageError: the disk cannot hold it, or a target is there already.
    """
    staging = folder / f".{archive.name}.{os.getpid()}.unpacking"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder, archive.name)
        with zipfile.ZipFile(archive) as file:
            wanted = _safe_entries(file, archive, only)
            tops = sorted({PurePosixPath(entry.filename).parts[0] for entry in wanted})
            _refuse_existing(folder, tops)
            _room_for(folder, sum(entry.file_size for entry in wanted), max_bytes, archive)
            _write(file, wanted, staging)
        for top in tops:
            (staging / top).rename(folder / top)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive}: is no sound zip archive ({error}); remove it and download it again") from error
    except OSError as error:
        raise storage_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [folder / top for top in tops]


def _safe_entries(file: zipfile.ZipFile, archive: Path, only: Sequence[str] | None) -> list[zipfile.ZipInfo]:
    """The wanted entries; the whole archive is judged first."""
    entries = file.infolist()
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"{archive}: has {len(entries):,} entries (at most {MAX_ENTRIES:,}); it was not unpacked")
    seen: set[str] = set()
    for entry in entries:
        fault = _entry_fault(entry, seen)
        if fault:
            raise DataError(
                f"{archive}: entry {entry.orig_filename!r} {fault}; nothing was unpacked, do not use this file"
            )
        seen.add(str(PurePosixPath(entry.filename)))
    wanted = [e for e in entries if only is None or PurePosixPath(e.filename).parts[0] in only]
    if not wanted:
        raise DataError(f"{archive}: holds none of {', '.join(only or ['any entry'])}; download the right archive")
    return wanted


def _entry_fault(entry: zipfile.ZipInfo, seen: set[str]) -> str | None:
    # zipfile cuts names at NUL and turns "\\" into "/" on some systems; the original name tells.
    name, mode = entry.orig_filename, entry.external_attr >> 16
    path = PurePosixPath(name)
    if "\0" in name or "\\" in name or not path.parts:
        return "has a NUL, a backslash or no name"
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return "would be written outside the folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if str(path) in seen:
        return "occurs twice"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > MAX_RATIO * max(entry.compress_size, 1024):
        return f"would grow from {entry.compress_size:,} to {entry.file_size:,} bytes"
    return None


def _write(file: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo], staging: Path) -> None:
    """Unpack into `staging`; zipfile itself checks each CRC and never gives more bytes than an entry declares."""
    for entry in entries:
        target = staging / PurePosixPath(entry.filename)
        if entry.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open(entry) as source, target.open("xb") as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)


def _sweep(folder: Path, name: str) -> None:
    """Remove what an earlier call that was killed left behind."""
    for left in folder.glob(f".{name}.*.unpacking"):
        pid = left.name.split(".")[-2]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _refuse_existing(folder: Path, tops: Sequence[str]) -> None:
    there = [top for top in tops if (folder / top).exists()]
    if there:
        raise StorageError(f"{folder / there[0]}: is there already; remove it first if it is to be unpacked again")


def _room_for(folder: Path, needed: int, most: int | None = None, archive: Path | None = None) -> None:
    if most is not None and needed > most:
        raise DataError(f"{archive}: would unpack to {needed:,} bytes, expected at most {most:,}; nothing was unpacked")
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise StorageError(f"{folder}: needs {needed:,} bytes, {free:,} are free; make room or choose another folder")
