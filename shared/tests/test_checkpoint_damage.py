"""Damaged checkpoints, manifests and pointers: named, never accepted, never followed."""

import gzip
import logging
import shutil
from pathlib import Path

import pytest
from checkpoint_samples import is_state_of, state_of

from shared import checkpoint
from shared.errors import CheckpointError
from shared.testing.damage import DRIFT, FILE_DAMAGE, HOSTILE, LFS, POINTER_DAMAGE, bytes_of


def swap_files(path: Path):
    other = path.with_name("step-1.pt")
    first, second = other.read_bytes(), path.read_bytes()
    other.write_bytes(second)
    path.write_bytes(first)


def copy_older(path: Path):
    shutil.copyfile(path.with_name("step-1.pt"), path)


DAMAGE = {**FILE_DAMAGE, "swapped with the earlier step": swap_files, "replaced by the earlier step": copy_older}


def test_the_corpora_have_their_counts():
    assert len(FILE_DAMAGE) + len(POINTER_DAMAGE) >= 64
    assert len(HOSTILE) == len(DRIFT) == 8


@pytest.fixture
def two_steps(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (1, 2):
        checkpoint.save(folder / f"step-{step}.pt", state_of(step), step=step)
    return folder


@pytest.mark.fault(8)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_named_and_the_earlier_one_used(two_steps, caplog, damage):
    newest = two_steps / "step-2.pt"
    before = bytes_of(newest)
    damage(newest)
    assert before != bytes_of(newest), "the case damages nothing"
    with pytest.raises(CheckpointError, match=r"step-2\.pt.*(: .*(Restore|update)|check the path)"):
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


@pytest.mark.fault(8)
@pytest.mark.parametrize("content", POINTER_DAMAGE.values(), ids=POINTER_DAMAGE.keys())
def test_a_damaged_pointer_is_never_followed(two_steps, caplog, content):
    checkpoint.save(two_steps.parent / "outside.pt", state_of(5), step=5, pointers=())
    (two_steps / "latest").write_bytes(content)
    if b".." in content or b"/" in content:
        with pytest.raises(CheckpointError, match=r"latest names .* out of its folder.*remove the pointer"):
            checkpoint.load_latest(two_steps)
        return
    path, state = checkpoint.load_latest(two_steps)
    assert path == two_steps / "step-2.pt"
    assert is_state_of(state, 2)
    assert any(record.levelno == logging.WARNING and "latest" in record.message for record in caplog.records)


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("content", "word"),
    [(b"<html>", "HTML"), (LFS, "git-LFS"), (gzip.compress(b"", mtime=0), "gzip"), (b"", "empty")],
)
def test_files_that_are_no_weights_are_recognised(tmp_path, content, word):
    path = tmp_path / "teacher.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"teacher.pth holds no weights.*{word}"):
        checkpoint.load_weights(path)
