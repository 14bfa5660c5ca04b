"""Files are whole or absent, also on full disks and in folders that cannot be written."""

import os
import resource
import subprocess
import tempfile
from pathlib import Path

import pytest
from checkpoint_samples import in_child, is_state_of, state_of, storage_failure

from shared import checkpoint
from shared.errors import StorageError, UserError
from shared.storage import make_folder


@pytest.mark.fault(6)
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


@pytest.mark.fault(6)
def test_a_full_disk_names_path_needed_and_free_bytes(small_disk):
    checkpoint.save(small_disk / "step-1.pt", state_of(1), step=1)
    message = storage_failure(lambda: checkpoint.save(small_disk / "step-2.pt", state_of(2, 100_000), step=2))
    assert str(small_disk / "step-2.pt") in message
    assert "No space left" in message
    assert "needs 40" in message
    assert_only_the_first_step_is_left(small_disk)


@pytest.mark.fault(6)
def test_a_disk_that_fills_up_keeps_the_overwritten_file(small_disk):
    checkpoint.save(small_disk / "last.pt", state_of(1), step=1)
    storage_failure(lambda: checkpoint.save(small_disk / "last.pt", state_of(2, 100_000), step=2))
    assert is_state_of(checkpoint.load(small_disk / "last.pt"), 1)


def assert_only_the_first_step_is_left(folder):
    assert is_state_of(checkpoint.load_latest(folder)[1], 1)
    assert sorted(item.name for item in folder.iterdir()) == ["latest", "step-1.pt", "step-1.pt.json"]


@pytest.mark.fault(7)
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


def test_a_folder_is_made_with_those_above_it_or_told(tmp_path):
    assert make_folder(tmp_path / "a" / "b") == make_folder(tmp_path / "a" / "b") and (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/c could not be written: .*file is not a folder"):
        make_folder(tmp_path / "file" / "c")
    with pytest.raises(StorageError, match=r"x.json could not be written"):
        make_folder(tmp_path / "file", tmp_path / "file" / "x.json")


@pytest.mark.fault(7)
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
