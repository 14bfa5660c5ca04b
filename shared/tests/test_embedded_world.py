"""The root of an embedded world: whole or absent, drawn once, never taken for another."""

import contextlib
import json
import multiprocessing
import os
import signal
import time

import pytest
import torch
from forked_runs import exit_code, forked

from shared.embedded_world import Description, in_processes, is_embedded, spec_of, written_once
from shared.errors import DataError, StorageError

SITE = Description("a test's world", 3, {"seed": 0, "frames": 4})


def draw(folder):
    (folder / "frame.txt").write_text("drawn")
    return {"frames_drawn": 1}


def write(root, world=SITE, build=draw):
    return written_once(root, world, build, bytes_needed=10)


def test_it_is_drawn_once_and_says_what_it_is(tmp_path):
    drawn = []
    for _ in range(2):
        assert write(tmp_path / "deep/world", build=lambda folder: drawn.append(folder)) == tmp_path / "deep/world"
    assert len(drawn) == 1 and not drawn[0].exists()
    mark = {"what": SITE.what, "generator": 3, "spec": {"seed": 0, "frames": 4}}
    assert json.loads((tmp_path / "deep/world/world.json").read_text()) == mark
    assert spec_of(tmp_path / "deep/world") == SITE.spec


def test_what_build_returns_stands_in_the_mark_and_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "world").mkdir()
    assert not is_embedded(tmp_path / "world")
    write(tmp_path / "world")
    assert is_embedded(tmp_path / "world") and (tmp_path / "world/frame.txt").is_file()
    assert json.loads((tmp_path / "world/world.json").read_text())["frames_drawn"] == 1


def test_a_failing_writer_leaves_nothing(tmp_path):
    def fail(folder):
        draw(folder)
        raise RuntimeError("drawing failed")

    with pytest.raises(RuntimeError, match="drawing failed"):
        write(tmp_path / "world", build=fail)
    assert [path.name for path in tmp_path.iterdir()] == [".world.lock"]
    assert is_embedded(write(tmp_path / "world"))


def test_what_a_killed_writer_left_is_swept(tmp_path):
    left = tmp_path / ".world.building"
    left.mkdir()
    (left / "half.txt").write_text("half")
    write(tmp_path / "world")
    assert not left.exists() and {path.name for path in (tmp_path / "world").iterdir()} == {"frame.txt", "world.json"}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Description(SITE.what, 3, {"seed": 1, "frames": 4}), "seed: there 0, asked 1"),
        (Description(SITE.what, 4, SITE.spec), "generator version 4"),
    ],
)
def test_another_world_is_refused(tmp_path, other, named):
    write(tmp_path / "world")
    with pytest.raises(DataError, match=named):
        write(tmp_path / "world", other)


@pytest.mark.parametrize("mark", [None, "{not JSON", "[]", "{}"])
def test_a_folder_with_something_else_is_refused_and_kept(tmp_path, mark):
    root = tmp_path / "world"
    root.mkdir()
    (root / "mine.txt").write_text("mine")
    if mark is not None:
        (root / "world.json").write_text(mark)
    with pytest.raises(DataError, match="choose another folder"):
        write(root)
    assert (root / "mine.txt").read_text() == "mine"


@pytest.mark.fault(7)
def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write(tmp_path / "file/world")


def _slowly(folder):
    time.sleep(0.2)
    (folder / f"by_{os.getpid()}.txt").write_text("drawn")


def test_two_processes_draw_one_world(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=write, args=(tmp_path / "world", SITE, _slowly)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(20)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list((tmp_path / "world").glob("by_*.txt"))) == 1


@pytest.mark.parametrize("workers", [0, 2, None])
def test_work_keeps_the_order_of_its_jobs(workers):
    assert list(in_processes(abs, range(-7, 0), workers, chunk=2)) == [7, 6, 5, 4, 3, 2, 1]


def _summed(size: int) -> float:
    return float(torch.ones(size).sum())


def test_a_job_may_use_torch_after_its_caller_used_its_threads(threads_at_work):
    process = forked(
        lambda: int(list(in_processes(_summed, [1 << 20, 1 << 21], 2)) != [1 << 20, 1 << 21]), new_group=True
    )
    try:
        assert exit_code(process) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the workers too, should they wait for ever
