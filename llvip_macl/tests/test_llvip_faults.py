"""tools/train.py under kills, signals, full disks and numbers that are none: the same command again ends as if uncut.

Every start is the same command with --resume. What is compared bit for bit: weights, averaged weights, optimizer, DHN's
queues (they stand in the weights), random states, the best file, metrics.jsonl without its "time", alignment.json.
A few cases always run; the counts of a full round are marked slow.
"""

import random
import signal
import subprocess
import sys
import time

import pytest
from llvip_samples import PROJECT, STEPS, Work, plain_environment, warm

from shared import checkpoint
from shared.folder import RunFolder
from shared.injections import at_call, differences, kill, limit_file_size, obey_permissions, send

slow = pytest.mark.slow
ACCUMULATE = "optim_wrapper.accumulative_counts=2"  # 3 batches an epoch: a group of two and one of one
EXPORT = ("metrics_export.enable=True", "metrics_export.enable_html_report=False")
END_S = 30.0  # after a SIGTERM a run is gone


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of the drawn world, which all runs share."""
    warm()
    return tmp_path_factory.mktemp("llvip_faults") / "data"


@pytest.fixture
def work(data, tmp_path):
    return Work(tmp_path / "one", data)


class Reference:
    """Runs that were never cut, one for each set of options."""

    def __init__(self, data, folder):
        self.data, self.folder, self.ends, self.seconds = data, folder, {}, {}

    def of(self, *options):
        """The run's folder; it is made when first asked for."""
        name = f"reference{abs(hash(options))}"
        one = Work(self.folder / name, self.data)
        if options not in self.ends:
            started = time.monotonic()
            one.train(*options)
            self.seconds[options], self.ends[options] = time.monotonic() - started, one.end()
        return one


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    return Reference(data, tmp_path_factory.mktemp("references"))


def finish(work, reference, *options):
    """The same command again reaches the same end."""
    output = work.train(*options)
    reference.of(*options)
    assert differences(reference.ends[options], work.end()) == []
    return output


def places():
    """name -> (owner, function): where runs are cut."""
    from llvip_macl.evaluation.pair_metrics import KaistMissRate
    from llvip_macl.hooks import metrics_export
    from llvip_macl.runtime import preparation, train_command
    from llvip_macl.runtime.loop import PairedEpochLoop
    from llvip_macl.runtime.runner import PairedRunner

    return {
        "data": (preparation, "find_data"),
        "building": (train_command, "build_runner"),
        "step": (PairedEpochLoop, "_optimize"),
        "epoch end": (PairedEpochLoop, "close_epoch"),
        "save": (PairedRunner, "save_state"),
        "file": (checkpoint, "save"),
        "manifest": (checkpoint, "_write_manifest"),
        "evaluation": (KaistMissRate, "compute_metrics"),
        "validation": (PairedEpochLoop, "_validate"),
        "export": (metrics_export, "export"),
        "done": (RunFolder, "mark_done"),
    }


def arm(place, number, action, after=False):
    return lambda: at_call(*places()[place], number, action, after=after)


# --- kills ------------------------------------------------------------------------------------------------------------

STOPS = {  # name -> (place, which call, after it?, options)
    "mid-epoch": ("step", 2, True, ()),
    "during evaluation": ("evaluation", 1, False, ()),
    "inside accumulation": ("step", 4, True, (ACCUMULATE,)),
    "first step": ("step", 1, False, ()),
    "epoch end": ("epoch end", 1, False, ()),
    "just after a save": ("save", 2, True, ()),
    "inside a save": ("manifest", 3, True, ()),
    "after evaluation": ("validation", 1, True, ()),
    "last step": ("step", STEPS, False, ()),
    "after the last step": ("done", 1, False, ()),
}
FAST_STOPS = ("mid-epoch", "during evaluation")


@pytest.mark.parametrize("point", [*FAST_STOPS, *[pytest.param(n, marks=slow) for n in STOPS if n not in FAST_STOPS]])
def test_a_run_killed_at_a_stop_point_ends_as_if_uncut(work, reference, point):
    place, number, after, options = STOPS[point]
    ended = work.start(*options, inject=arm(place, number, kill, after)).wait()
    assert ended.code == -signal.SIGKILL, ended.output[-3000:]
    finish(work, reference, *options)


@slow
@pytest.mark.parametrize("seed", range(8))
def test_kill_9_at_a_random_moment(work, reference, seed):
    reference.of()
    child = work.start()
    time.sleep(random.Random(seed).uniform(0.2, 1.0) * reference.seconds[()])
    child.signal(signal.SIGKILL)
    assert child.wait().code in (-signal.SIGKILL, 0)
    finish(work, reference)


@slow
@pytest.mark.parametrize("saves", [1, 4])
def test_kill_9_of_the_command_line_itself(work, reference, saves):
    """As a user starts it: another interpreter, cut once so many checkpoints lie there, and started again."""
    command = [sys.executable, str(PROJECT / "tools/train.py"), *work.argv()]
    with (work.folder / "killed.txt").open("w") as log:
        child = subprocess.Popen(command, env=plain_environment(), stdout=log, stderr=log, cwd=work.folder)
        deadline = time.monotonic() + 300
        while not (work.run / f"iter_{saves}.pth.json").exists() and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.kill()
        assert child.wait() == -signal.SIGKILL, (work.folder / "killed.txt").read_text()[-3000:]
    done = subprocess.run(
        command, env=plain_environment(), capture_output=True, text=True, cwd=work.folder, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reference.of()
    assert differences(reference.ends[()], work.end()) == []


CUTS = (("file", False), ("manifest", False), ("manifest", True), ("save", True), ("step", True))


@slow
def test_25_kills_while_every_step_is_saved(work, data, tmp_path):
    """Each leaves a checkpoint whose tensors are those of its step, and the last start ends as one uncut run."""
    options = ("train_cfg.max_epochs=13", "train_cfg.val_begin=100")
    uncut = Work(tmp_path / "uncut", data)
    uncut.train(*options, inject=lambda: write_down_every_save(uncut.folder / "saves.txt"))
    known = dict(line.split() for line in (uncut.folder / "saves.txt").read_text().splitlines())
    assert len(known) == 39
    draw, seen = random.Random(0), []
    for _ in range(25):
        place, after = draw.choice(CUTS)
        ended = work.start(*options, inject=arm(place, draw.choice([1, 2, 2, 2]), kill, after)).wait()
        assert ended.code == -signal.SIGKILL, ended.output[-3000:]
        state = work.newest()
        if state is not None:
            seen.append(state["position"]["step"])
            assert known[str(seen[-1])] == checkpoint.tensors_sha256(state["state_dict"])
    assert seen == sorted(seen)
    assert seen[-1] > 15
    work.train(*options)
    assert differences(uncut.end("epoch_13.pth"), work.end("epoch_13.pth")) == []


def write_down_every_save(path):
    """Append "step sha256" of the weights of every training checkpoint."""
    original = checkpoint.save

    def save(file, state, **rest):
        if "position" in state:
            with path.open("a") as log:
                log.write(f"{state['position']['step']} {checkpoint.tensors_sha256(state['state_dict'])}\n")
        return original(file, state, **rest)

    checkpoint.save = save


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=slow), pytest.param(4, marks=slow)])
def test_the_worker_count_changes_nothing_on_resume(work, reference, workers):
    assert work.start(inject=arm("step", 3, kill)).wait().code == -signal.SIGKILL
    work.train(f"train_dataloader.num_workers={workers}", f"val_dataloader.num_workers={min(workers, 1)}")
    reference.of()
    assert differences(reference.ends[()], work.end()) == []


# --- signals ----------------------------------------------------------------------------------------------------------

SIGNALS = {  # name -> (place, which call, after it?, options, the step that is saved)
    "accumulation": ("step", 4, True, (ACCUMULATE,), 5),
    "evaluation 1": ("evaluation", 1, False, (), 3),
    "data": ("data", 1, False, (), 0),
    "building": ("building", 1, False, (), 0),
    "first step": ("step", 1, False, (), 1),
    "training 1": ("step", 2, True, (), 2),
    "training 2": ("step", 3, False, (), 3),
    "training 3": ("step", 5, False, (), 5),
    "evaluation 2": ("validation", 2, False, (), 6),
    "saving 1": ("file", 1, False, (), 2),
    "saving 2": ("manifest", 3, True, (), 3),
    "export": ("export", 1, False, EXPORT, 6),
}
FAST_SIGNALS = ("accumulation",)


def by_signal(work, ended, code, step):
    assert ended.code == code, ended.output[-3000:]
    assert "Traceback" not in ended.output
    assert ended.seconds_since_signal() < END_S
    state = work.newest() if work.run.exists() else None
    assert (state["position"]["step"] if state else 0) == step


@pytest.mark.parametrize(
    "point", [*FAST_SIGNALS, *[pytest.param(n, marks=slow) for n in SIGNALS if n not in FAST_SIGNALS]]
)
def test_sigterm_saves_the_newest_step_and_ends_with_143(work, reference, point):
    place, number, after, options, step = SIGNALS[point]
    ended = work.start(*options, inject=arm(place, number, send(signal.SIGTERM), after)).wait()
    by_signal(work, ended, 143, step)
    finish(work, reference, *options)
    if point == "export":  # it was not cut off for good
        assert list((work.folder / "work_dirs/metrics_logs").glob("run_*.zip"))


@slow
@pytest.mark.parametrize("point", ["training 2", "evaluation 1"])
def test_sigint_ends_with_130(work, reference, point):
    place, number, after, options, step = SIGNALS[point]
    by_signal(work, work.start(*options, inject=arm(place, number, send(signal.SIGINT), after)).wait(), 130, step)
    finish(work, reference)


@slow
@pytest.mark.parametrize("point", ["saving 2", "training 1"])
def test_a_second_sigterm_ends_at_once_and_corrupts_nothing(work, reference, point):
    place, number, after, *_ = SIGNALS[point]
    ended = work.start(inject=arm(place, number, send(signal.SIGTERM, signal.SIGTERM), after)).wait()
    assert ended.code == 143
    finish(work, reference)


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [2, pytest.param(1, marks=slow), pytest.param(4, marks=slow)])
def test_a_full_disk_is_told_and_the_earlier_checkpoint_stays(work, reference, save):
    ended = work.start(inject=arm("file", save, lambda: limit_file_size(60_000))).wait()
    assert ended.code in (1, 2), ended.output[-3000:]
    assert "Traceback" not in ended.output
    told = ended.output[ended.output.index("error: ") :]
    assert str(work.run) in told
    assert "bytes and" in told and "are free" in told
    state = work.newest()
    assert (state["position"]["step"] if state else 0) == save - 1
    (work.run / ".epoch_9.pth.999999.tmp").write_bytes(b"left by a process that is gone")
    finish(work, reference)
    assert not list(work.run.rglob("*.tmp"))


@slow
def test_a_folder_that_cannot_be_written(work, reference):
    work.start(inject=arm("step", 2, kill)).wait()
    folders = [work.run, *(path for path in work.run.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    ended = work.start(inject=obey_permissions).wait()
    for folder in folders:
        folder.chmod(0o755)
    assert ended.code == 2, ended.output[-3000:]
    assert "Traceback" not in ended.output
    assert "read-only" in ended.output and str(work.run) in ended.output
    finish(work, reference)


def test_a_file_where_the_results_belong(work):
    work.run.parent.mkdir()
    work.run.write_text("in the way")
    work.refused(str(work.run), "is not a folder")
    work.refused(str(work.run), "is not a folder", run=work.run / "below")


@slow
def test_a_folder_that_is_gone_while_the_run_writes(work):
    """Somebody moved or unmounted it: nothing begins a second, partial run in its place."""
    away = work.run.with_name("away")
    work.refused(str(work.run), "does not exist", inject=arm("file", 2, lambda: work.run.rename(away)))
    assert not work.run.exists()
    assert (away / "iter_1.pth").is_file()


@slow
def test_a_second_run_in_the_same_folder_is_refused(work):
    first = work.start(inject=arm("step", 1, lambda: time.sleep(100)))
    lock, deadline = work.run / "run.lock", time.monotonic() + 60
    while not (lock.exists() and lock.read_text().startswith(f"process {first.pid} ")):
        assert time.monotonic() < deadline, "the first run never took its folder"
        time.sleep(0.05)
    work.refused(f"process {first.pid}", str(work.run))
    first.end()


# --- numbers ----------------------------------------------------------------------------------------------------------


def poison(number, *, gradient):
    """The number-th batch's RoI loss, or one value of a gradient alone, is NaN or Inf."""
    from llvip_macl.models.roi_head import MACLRoIHead
    from llvip_macl.runtime.loop import PairedEpochLoop

    calls = [0]
    if gradient:
        check = PairedEpochLoop._check_finite

        def poisoned(self, loss, values, wrapper, batch):
            calls[0] += 1
            if calls[0] == number:
                held = [p for group in wrapper.optimizer.param_groups for p in group["params"] if p.grad is not None]
                held[-1].grad.view(-1)[0] = float("nan")
            return check(self, loss, values, wrapper, batch)

        PairedEpochLoop._check_finite = poisoned
        return
    loss_of = MACLRoIHead.loss

    def loss(self, *arguments, **keywords):
        losses = loss_of(self, *arguments, **keywords)
        calls[0] += 1
        return {**losses, "loss_cls": losses["loss_cls"] * float("inf")} if calls[0] == number else losses

    MACLRoIHead.loss = loss


@pytest.mark.parametrize(
    ("number", "gradient", "options", "good"),
    [
        pytest.param(1, False, (), 0, id="first step", marks=slow),
        pytest.param(6, False, (), 5, id="last step", marks=slow),
        pytest.param(3, False, (), 2, id="loss"),
        pytest.param(4, True, (), 3, id="gradient alone"),
        pytest.param(4, False, (ACCUMULATE,), 3, id="inside accumulation", marks=slow),
    ],
)
def test_what_is_not_finite_stops_before_the_step(work, reference, number, gradient, options, good):
    told = ["not finite", "The weights are those before this step", "images/set0"]  # the samples, by their paths
    told += [] if gradient else ["loss_cls = inf"]
    work.refused(*told, options=options, code=1, inject=lambda: poison(number, gradient=gradient))
    state = work.newest()
    assert (state["position"]["step"] if state else 0) == good
    finish(work, reference, *options)  # the cause gone, the run goes on from its last good step
