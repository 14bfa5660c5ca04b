"""Downloads and archives: a final name only ever holds something complete and checked, and nothing is written outside.

A server in this process serves a file of known bytes; nothing leaves the machine.
"""

import hashlib
import importlib.util
import io
import os
import stat
import struct
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from shared.errors import DataError, StorageError
from talk2car_kd import archives
from talk2car_kd.archives import download, extract

SCRIPT = Path(__file__).parents[1] / "data" / "download.py"
BODY = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(BODY).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """/file honours ranges, /plain does not; /short, /page, /hidden-page and /gone misbehave."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        if self.path in self.server.files:
            return self._send(self.server.files[self.path])
        if self.path in ("/file", "/plain"):
            return self._send(BODY, ranges=self.path == "/file")
        if self.path == "/short":
            return self._send(BODY, cut=100_000)
        if self.path == "/page":
            return self._send(b"<!DOCTYPE html><html>log in</html>", kind="text/html")
        if self.path == "/hidden-page":
            return self._send(b"\n<!DOCTYPE html><html>log in</html>")
        return self.send_error(404)

    def _send(self, body: bytes, ranges: bool = True, cut: int | None = None, kind: str = "application/zip"):
        start = 0
        if ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : cut or len(body)])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.requests, http.files = [], {}
        http.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


# Downloads ------------------------------------------------------------------------------------------------------------


def test_whole_file(server, tmp_path):
    seen = []
    target = download(
        f"{server.url}/file",
        tmp_path / "new" / "a.zip",
        size=len(BODY),
        sha256=SHA256,
        progress=lambda *n: seen.append(n),
    )
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["a.zip"]
    assert seen[-1] == (len(BODY), len(BODY))


@pytest.mark.fault(16)
@pytest.mark.parametrize("path", ["file", "plain"])
def test_a_broken_download_continues_or_starts_again(server, tmp_path, path):
    (tmp_path / "a.zip.part").write_bytes(BODY[:120_000])
    target = download(f"{server.url}/{path}", tmp_path / "a.zip", size=len(BODY), sha256=SHA256)
    assert target.read_bytes() == BODY
    assert server.requests == [(f"/{path}", "bytes=120000-")]


def test_a_complete_part_needs_no_server(tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BODY)
    target = download("http://127.0.0.1:9/file", tmp_path / "a.zip", size=len(BODY), sha256=SHA256)
    assert target.read_bytes() == BODY


def test_a_complete_part_of_unknown_size(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BODY)
    assert download(f"{server.url}/file", tmp_path / "a.zip", sha256=SHA256).read_bytes() == BODY


@pytest.mark.fault(16)
def test_a_file_that_is_there_is_only_checked(tmp_path):
    target = tmp_path / "a.zip"
    target.write_bytes(BODY)
    assert download("http://127.0.0.1:9/file", target, size=len(BODY), sha256=SHA256) == target
    with pytest.raises(DataError, match="remove it"):
        download("http://127.0.0.1:9/file", target, size=len(BODY) + 1)
    assert target.exists()


@pytest.mark.fault(16)
def test_cut_short_keeps_the_part_and_continues(server, tmp_path):
    target = tmp_path / "a.zip"
    with pytest.raises(DataError, match=r"cut short at 100,000 of 300,000 bytes; .*continues"):
        download(f"{server.url}/short", target, size=len(BODY), sha256=SHA256)
    assert not target.exists()
    assert download(f"{server.url}/file", target, size=len(BODY), sha256=SHA256).read_bytes() == BODY


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("path", "known", "message"),
    [
        ("file", {"sha256": "0" * 64}, "has sha256"),
        ("file", {"size": len(BODY) + 5}, "not 300,005"),
        ("page", {}, "web page"),
        ("hidden-page", {}, "web page"),
        ("gone", {}, "404"),
    ],
)
def test_a_wrong_file_leaves_nothing(server, tmp_path, path, known, message):
    with pytest.raises(DataError, match=message):
        download(f"{server.url}/{path}", tmp_path / "a.zip", **known)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(16)
def test_a_wrong_part_is_not_continued_for_ever(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(bytes(120_000))
    with pytest.raises(DataError, match="sha256"):
        download(f"{server.url}/file", tmp_path / "a.zip", size=len(BODY), sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(16)
def test_offline(tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BODY[:1000])
    with pytest.raises(DataError, match=r"cannot be reached .*network.* continues after the 1,000 bytes"):
        download("http://127.0.0.1:9/file", tmp_path / "a.zip", size=len(BODY), timeout_s=2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip.part"]


@pytest.mark.fault(16)
def test_addresses_of_other_kinds(tmp_path):
    with pytest.raises(DataError, match="http"):
        download("file:///etc/passwd", tmp_path / "a.zip")


@pytest.mark.fault(6)
def test_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SPARE_BYTES", 1 << 60)
    with pytest.raises(StorageError, match="are free"):
        download(f"{server.url}/file", tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(7)
def test_target_folder_is_a_file(server, tmp_path):
    (tmp_path / "dest").write_text("")
    with pytest.raises(StorageError, match="dest"):
        download(f"{server.url}/file", tmp_path / "dest" / "a.zip")


# Archives -------------------------------------------------------------------------------------------------------------


def _zip(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def _special(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (kind | 0o644) << 16
    return entry


GOOD = [("val2017/1.jpg", b"one"), ("val2017/sub/2.jpg", b"two")]


def test_extract(tmp_path):
    archive = _zip(tmp_path / "a.zip", [("val2017/", b""), *GOOD, ("other/readme", b"x")])
    assert extract(archive, tmp_path / "out", only=["val2017"]) == [tmp_path / "out/val2017"]
    assert (tmp_path / "out/val2017/1.jpg").read_bytes() == b"one"
    assert (tmp_path / "out/val2017/sub/2.jpg").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["val2017"]


def _encrypted(path: Path) -> Path:
    """The flag of an encrypted entry, set by hand in both of its headers."""
    data = bytearray(_zip(path, GOOD).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    return path


def _nul(path: Path) -> Path:
    _zip(path, [*GOOD, ("val2017/3.jpgX.sh", b"x")])
    path.write_bytes(path.read_bytes().replace(b"3.jpgX.sh", b"3.jpg\0.sh"))
    return path


@pytest.mark.fault(16)
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([("../outside.txt", b"x")], "outside the folder"),
        ([("val2017/../../outside.txt", b"x")], "outside the folder"),
        ([("/tmp/outside.txt", b"x")], "outside the folder"),
        ([("C:/outside.txt", b"x")], "outside the folder"),
        ([("val2017\\..\\outside.txt", b"x")], "backslash"),
        ([(_special("val2017/link", stat.S_IFLNK), b"/etc/passwd")], "link or a device"),
        ([(_special("val2017/zero", stat.S_IFCHR), b"")], "link or a device"),
        ([(_special("val2017/pipe", stat.S_IFIFO), b"")], "link or a device"),
        ([("val2017/bomb", bytes(40_000_000))], "would grow"),
        ([("val2017/1.jpg", b"again")], "occurs twice"),
        ([("val2017/./1.jpg", b"again")], "occurs twice"),
        (_nul, "NUL"),
        (_encrypted, "encrypted"),
    ],
)
def test_hostile_archives_are_refused_whole(tmp_path, bad, message):
    archive = tmp_path / "a.zip"
    archive = bad(archive) if callable(bad) else _zip(archive, [*GOOD, *bad])
    out = tmp_path / "deep" / "out"
    with pytest.raises(DataError, match=message):
        extract(archive, out)
    assert list(out.iterdir()) == []
    assert {path.name for path in tmp_path.rglob("*")} == {"a.zip", "deep", "out"}
    assert not Path("/tmp/outside.txt").exists()


@pytest.mark.fault(16)
def test_declared_sizes_are_limited(tmp_path):
    archive = _zip(tmp_path / "a.zip", GOOD)
    with pytest.raises(DataError, match=r"would unpack to 6 bytes, expected at most 5"):
        extract(archive, tmp_path / "out", max_bytes=5)


@pytest.mark.fault(16)
def test_an_entry_larger_than_it_declares_is_not_unpacked(tmp_path):
    """A bomb that lies about its size: the bytes beyond it are never written, and its checksum fails."""
    archive = _zip(tmp_path / "a.zip", [("val2017/1.jpg", bytes(100_000))])
    data = archive.read_bytes()
    archive.write_bytes(data.replace(struct.pack("<L", 100_000), struct.pack("<L", 10)))
    with pytest.raises(DataError, match="CRC"):
        extract(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.fault(16)
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_damaged_archives_leave_nothing(tmp_path, damage):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr("val2017/1.jpg", BODY)
    data = bytearray(archive.read_bytes())
    data[150_000] ^= 1
    archive.write_bytes({"cut": data[:200_000], "flip": data, "empty": b"", "text": b"404 not found"}[damage])
    with pytest.raises(DataError, match="no sound zip archive"):
        extract(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.fault(16)
def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 1)
    with pytest.raises(DataError, match="2 entries"):
        extract(_zip(tmp_path / "a.zip", GOOD), tmp_path / "out")


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "out/val2017").mkdir(parents=True)
    with pytest.raises(StorageError, match="is there already"):
        extract(_zip(tmp_path / "a.zip", GOOD), tmp_path / "out")
    assert list((tmp_path / "out/val2017").iterdir()) == []


@pytest.mark.fault(6)
def test_no_room_to_unpack(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SPARE_BYTES", 1 << 60)
    with pytest.raises(StorageError, match=r"needs 6 bytes, .* are free"):
        extract(_zip(tmp_path / "a.zip", GOOD), tmp_path / "out")


def test_leftovers_of_the_dead_are_swept(tmp_path):
    dead = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    for pid in (dead, os.getppid()):
        (tmp_path / f".a.zip.{pid}.unpacking").mkdir()
    extract(_zip(tmp_path / "a.zip", GOOD), tmp_path)
    assert [path.name for path in tmp_path.glob("*.unpacking")] == [f".a.zip.{os.getppid()}.unpacking"]


# data/download.py -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("talk2car_kd_download_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _archive(script, name: str, folder: str):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(f"{folder}/a.json", name)
    data = buffer.getvalue()
    path = f"zips/{name}.zip"
    return data, script.Archive(path, folder, len(data), 1000, hashlib.sha256(data).hexdigest())


@pytest.mark.readme("python data/download.py --dest data/coco")
def test_command_fetches_unpacks_and_skips(script, server, tmp_path, monkeypatch, capsys, readme):
    monkeypatch.chdir(tmp_path)
    (line,) = readme
    table = {}
    for name, folder in (("annotations", "annotations"), ("val", "val2017"), ("train", "train2017")):
        data, table[name] = _archive(script, name, folder)
        server.files[f"/{table[name].path}"] = data
    monkeypatch.setattr(script, "ARCHIVES", table)
    command = [*line.arguments, "--images", "val", "--server", server.url]
    assert script.main(command) == 0
    assert sorted(path.name for path in (tmp_path / "data/coco").iterdir()) == ["annotations", "val2017"]
    assert (tmp_path / "data/coco/val2017/a.json").read_text() == "val"
    count = len(server.requests)
    assert script.main(command) == 0
    assert len(server.requests) == count
    assert "there already" in capsys.readouterr().out


def test_dry_run_touches_nothing(script, tmp_path, capsys):
    assert script.main(["--dest", str(tmp_path / "coco"), "--server", "http://127.0.0.1:9", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "train2017.zip" in printed
    assert "(19.34 GB)" in printed
    assert not (tmp_path / "coco").exists()


@pytest.mark.fault(16)
def test_command_offline_is_an_error(script, tmp_path, capsys):
    assert script.main(["--dest", str(tmp_path / "coco"), "--server", "http://127.0.0.1:9"]) == 2
    assert "error: http://127.0.0.1:9/annotations" in capsys.readouterr().err
    assert list((tmp_path / "coco").iterdir()) == []


def test_official_addresses(script):
    urls = {name: f"{script.SERVER}/{archive.path}" for name, archive in script.ARCHIVES.items()}
    assert urls == {
        "annotations": "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        "val": "http://images.cocodataset.org/zips/val2017.zip",
        "train": "http://images.cocodataset.org/zips/train2017.zip",
    }
    assert all(len(archive.sha256) == 64 for archive in script.ARCHIVES.values())
