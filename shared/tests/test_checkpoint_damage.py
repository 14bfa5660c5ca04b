"""Damaged checkpoints, manifests and pointers: named, never accepted, never followed."""

import gzip
import json
import logging
import shutil
from pathlib import Path

import pytest
from checkpoint_samples import flip, is_state_of, state_of, truncate

from shared import checkpoint
from shared.errors import CheckpointError


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


@pytest.mark.fault(8)
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


@pytest.mark.fault(8)
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


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("content", "word"),
    [(b"<html>", "HTML"), (LFS, "git-LFS"), (gzip.compress(b""), "gzip"), (b"", "empty")],
)
def test_files_that_are_no_weights_are_recognised(tmp_path, content, word):
    path = tmp_path / "teacher.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"teacher.pth holds no weights.*{word}"):
        checkpoint.load_weights(path)
