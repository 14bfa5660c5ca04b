"""A run cut anywhere in its stages ends as if uncut; two processes end as one."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from rq_run_samples import write_work
from test_pillars_faults import COMMAND

from pillars_rq import rq_training
from pillars_rq.bitstream.codec import codec_from
from shared import checkpoint
from shared.loop import Loop
from shared.testing.faults import start, start_world
from shared.testing.injections import at_call, differences, kill, metrics_of

TWO_BOOKS = {"logging.use_wandb": False, "logging.log_freq": 1}
STAGES = [f"codebook_{c}_stage_{s}" for c in (0, 1) for s in (0, 1)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    work = write_work(tmp_path_factory.mktemp("prepared") / "work", TWO_BOOKS)
    (work / "results").mkdir()
    return work


def copy(prepared: Path, folder: Path) -> Path:
    return Path(shutil.copytree(prepared, folder / "work"))


def end_of(work: Path) -> dict:
    run = COMMAND.run_folder(work)
    files = {path.name: checkpoint.load(path) for path in (run / "checkpoints").glob("*.pth")}
    for state in files.values():
        state["origin"].pop("base_sha256")
    loops = {stage: checkpoint.load_latest(run / stage)[1] for stage in STAGES}
    for state in loops.values():
        state.pop("metrics_bytes")  # lines hold times, which differ in length
    return {"files": files, "metrics": metrics_of(run), "loops": loops}


@pytest.fixture(scope="module")
def uncut(prepared, tmp_path_factory) -> dict:
    work = copy(prepared, tmp_path_factory.mktemp("uncut"))
    ended = start(COMMAND, work).wait()
    assert ended.code == 0, ended.output[-3000:]
    return end_of(work)


# Six steps a stage: 3 of warm-up, 3 by gradient.
CUTS = {
    "first stage, warm-up": lambda: at_call(Loop, "_optimize", 2, kill),
    "third stage, warm-up": lambda: at_call(Loop, "_optimize", 14, kill, after=True),
    "last stage, by gradient": lambda: at_call(Loop, "_optimize", 23, kill),
    "between two stages": lambda: at_call(rq_training, "keep_progress", 2, kill),
    "after a stage was kept": lambda: at_call(rq_training, "keep_progress", 2, kill, after=True),
    "while final.pth is written": lambda: at_call(rq_training, "save", 5, kill),
}


ALWAYS = ("third stage, warm-up", "last stage, by gradient", "between two stages")


@pytest.mark.fault(3)
@pytest.mark.parametrize("cut", [c if c in ALWAYS else pytest.param(c, marks=pytest.mark.slow) for c in CUTS])
def test_a_cut_run_ends_as_if_uncut(prepared, uncut, tmp_path, cut):
    work = copy(prepared, tmp_path)
    assert start(COMMAND, work, CUTS[cut]).wait().code == -signal.SIGKILL
    ended = start(COMMAND, work).wait()
    assert ended.code == 0, ended.output[-3000:]
    assert differences(uncut, end_of(work)) == []


@pytest.mark.fault(22)
def test_two_processes_end_as_one(prepared, uncut, tmp_path):
    """Sums are in another order, so the last digits differ; nothing else."""
    work = copy(prepared, tmp_path)
    for ended in start_world(COMMAND, work):
        assert ended.code == 0, ended.output[-3000:]
    ours, theirs = end_of(work), uncut
    assert ours["files"].keys() == theirs["files"].keys()
    for name in theirs["files"]:
        books = [codec_from(end["files"][name]["codec"]).quantizer.books for end in (ours, theirs)]
        torch.testing.assert_close(*books, rtol=1e-4, atol=1e-6)
    for a, b in zip(ours["metrics"], theirs["metrics"], strict=True):
        assert a.keys() == b.keys()
        assert {key: value for key, value in a.items() if not isinstance(value, float)} == {
            key: value for key, value in b.items() if not isinstance(value, float)}  # fmt: skip
        for key in ("loss", "codebook", "det", "rel_mse", "map"):
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-6), (key, a)


def test_evaluation_by_several_processes_is_refused(prepared, tmp_path):
    work = copy(prepared, tmp_path)
    children = start_world(COMMAND, work, dict.fromkeys((0, 1), _evaluating))
    assert [child.code for child in children] == [2, 2]
    assert "--mode eval runs in one process" in children[0].output


def _evaluating() -> None:
    """The command line gets one flag more."""
    from pillars_rq import rq_command

    execute = rq_command.execute

    def changed(args):
        args.mode = "eval"
        return execute(args)

    rq_command.execute = changed
