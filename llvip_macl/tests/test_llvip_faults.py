"""tools/train.py under the faults of `shared.testing.faults`, with an anatomy of its own: the loop is MMEngine's.

What is compared bit for bit: weights, averaged weights, optimizer, DHN's queues (they stand in the weights), random
states, the best file, metrics.jsonl without its "time", alignment.json. Beside the suite stand the faults of this
package alone: the command line itself, 25 kills in one run, the export, and an accumulation of gradients.
"""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from llvip_samples import PROJECT, Work, judge_main, outcome, plain_environment, train_main, warm

from shared import checkpoint
from shared.testing.faults import (
    Anatomy,
    CommandSuite,
    FaultSuite,
    Judging,
    TrainingCommand,
    finished,
    start,
    start_world,
)
from shared.testing.injections import at_call, differences, kill, send
from shared.testing.worker_faults import TIMEOUT_S, WorkerFaults

fault = pytest.mark.fault
LOOP, RUNNER = "llvip_macl.runtime.loop:PairedEpochLoop", "llvip_macl.runtime.runner:PairedRunner"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of the drawn world, which all runs share."""
    warm()
    return tmp_path_factory.mktemp("llvip_faults") / "data"


@pytest.fixture(scope="module")
def prepared(data, tmp_path_factory):
    timeout = "\ntrain_dataloader.update(timeout=0)\n"  # the usual one; a command line may set a key that is there
    return Work(tmp_path_factory.mktemp("prepared"), data, text=timeout).folder


# --- the command ------------------------------------------------------------------------------------------------------


def main(argv):
    return (judge_main() if argv[1].endswith(".pth") else train_main())(argv)


def argv(*options):
    more = ["--cfg-options", *options] if options else []
    return lambda work: [str(work / "tiny.py"), "--work-dir", str(work / "work_dirs/tiny"), "--resume", *more]


def newest(run, stage):
    from llvip_macl.runtime.checkpoints import newest_state

    found = newest_state(run)
    return found and found[1]


def end(run, stage, weights):
    found = outcome(run)
    return {"weights": found.pop("best weights"), "metrics": found.pop("metrics"), "checkpoint": found}


def poison_loss(number, value):
    """The number-th batch's RoI loss is NaN or Inf."""
    from llvip_macl.models.roi_head import MACLRoIHead

    loss_of, calls = MACLRoIHead.loss, [0]

    def loss(self, *arguments, **keywords):
        losses = loss_of(self, *arguments, **keywords)
        calls[0] += 1
        return {**losses, "loss_cls": losses["loss_cls"] * value} if calls[0] == number else losses

    MACLRoIHead.loss = loss


def poison_gradient(number):
    """One value of a gradient is NaN before the number-th step; every loss stays finite."""
    from llvip_macl.runtime.loop import PairedEpochLoop

    check, calls = PairedEpochLoop._check_finite, [0]

    def poisoned(self, loss, values, wrapper, batch):
        calls[0] += 1
        if calls[0] == number:
            held = [p for group in wrapper.optimizer.param_groups for p in group["params"] if p.grad is not None]
            held[-1].grad.view(-1)[0] = float("nan")
        return check(self, loss, values, wrapper, batch)

    PairedEpochLoop._check_finite = poisoned


def judge(work, images):
    options = ["embedded.pairs=(7,11)", f"test_dataloader.dataset.indices={images}", "test_dataloader.batch_size=1"]
    return [str(work / "tiny.py"), str(work / "work_dirs/tiny/best.pth"), "--work-dir", str(work / "work_dirs/judged"),
            "--cfg-options", *options]  # fmt: skip


def scores(work):
    """As they are written, to the last digit; and they tell detectors apart."""
    folder = work / "work_dirs/judged"
    metrics = json.loads((folder / "results_best.json").read_text())["metrics"]
    assert 0 < metrics["coco/bbox_mAP_50"] < 1
    assert any(0 < value < 100 for name, value in metrics.items() if name.startswith("kaist/"))
    return {"metrics": json.dumps(metrics), "detections": (folder / "detections_best.txt").read_text()}


def see_something():
    """A detector that finds boxes near the persons, some missed, some doubled: the same for a picture whoever looks."""
    from mmengine.structures import InstanceData

    from llvip_macl.models.detector import PairedFasterRCNN

    def predict(self, inputs, samples, rescale=True):
        for sample in samples:
            seed = int.from_bytes(hashlib.sha256(sample.img_path.rpartition("images/")[2].encode()).digest()[:4], "big")
            g = torch.Generator().manual_seed(seed)
            boxes = sample.gt_instances.bboxes.reshape(-1, 4).repeat(2, 1)
            boxes = boxes + 2 * torch.rand(boxes.shape, generator=g)
            keep = torch.rand(len(boxes), generator=g) < 0.7
            scores = torch.rand(len(boxes), generator=g)
            sample.pred_instances = InstanceData(bboxes=boxes[keep], scores=scores[keep],
                                                 labels=torch.zeros(int(keep.sum()), dtype=torch.long))  # fmt: skip
        return samples

    PairedFasterRCNN.predict = predict


COMMAND = TrainingCommand(
    name="llvip",
    main=main,
    argv=argv(),
    script=PROJECT / "tools/train.py",
    run_folder=lambda work: work / "work_dirs/tiny",
    stage="",
    weights="best.pth",
    evaluation=("llvip_macl.evaluation.pair_metrics:KaistMissRate", "compute_metrics"),
    evaluation_of_all=("llvip_macl.evaluation.pair_metrics:PairCocoMetric", "process"),
    preparation={
        "data": ("llvip_macl.runtime.preparation", "find_data"),
        "teacher": ("llvip_macl.runtime.train_command", "build_runner"),
    },
    workers=lambda n: [
        "--cfg-options", f"train_dataloader.num_workers={n}", f"val_dataloader.num_workers={min(n, 1)}"
    ],
    judging=Judging(judge, scores, see_something),
    together=["--launcher", "pytorch"],
    # No `uneven`: test_llvip_processes.py holds losses and gradients to those of one process.
    anatomy=Anatomy(
        batch=(LOOP, "_optimize"),
        step=(LOOP, "_optimize"),
        inside_step=(LOOP, "_check_finite"),
        epoch_end=(LOOP, "close_epoch"),
        save=(RUNNER, "save_state"),
        state=(RUNNER, "state"),
        prune=("llvip_macl.runtime.checkpoints", "remove"),
        poison_loss=poison_loss,
        poison_gradient=poison_gradient,
        newest=newest,
        outcome=end,
        disk_bytes=60_000,
    ),
)  # fmt: skip
SAVED_AT = {"data": 0, "teacher": 0, "first step": 1, "training 1": 2, "training 2": 3, "accumulation": 2,
            "epoch's last step": 3, "evaluation 1": 3, "evaluation 2": 6, "saving 1": 2, "saving 2": 3}  # fmt: skip


def told_not_finite(output, value):
    """value: of the loss; None where a gradient alone is not finite."""
    assert "not finite" in output
    assert "The weights are those before this step" in output
    assert "images/set0" in output  # the samples, by their paths
    assert value is None or f"loss_cls = {value}" in output


class TestLlvip(WorkerFaults, FaultSuite):
    command = COMMAND
    sample_reader = ("llvip_macl.data.paired_dataset:PairedDataset", "__getitem__")
    two_workers = (*COMMAND.workers(2), f"train_dataloader.timeout={TIMEOUT_S}")
    always = (
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[mid-epoch]",
        "test_a_run_killed_at_a_stop_point_ends_as_if_uncut[during evaluation]",
        "test_the_worker_count_changes_nothing_on_resume[2]",
        "test_a_full_disk_is_told_and_the_earlier_checkpoint_stays[2]",
        "test_a_file_where_the_results_belong",
        "test_a_file_where_the_run_belongs",
        "test_what_is_not_finite_stops_before_the_step[first batch inf-3]",
        "test_what_is_not_finite_stops_before_the_step[gradient-2]",
        "test_another_number_of_processes_is_refused",
        "test_an_error_on_one_rank_ends_both[training]",
        "test_a_nan_on_one_rank_stops_both",
        "test_two_processes_judge_as_one[5]",
    )

    def name_of(self, data, key):
        return data.get_data_info(int(key))["img_path"]

    def saved_at(self):
        return SAVED_AT

    def told_not_finite(self, output, what, step):
        told_not_finite(output, None if what == "gradient" else what[-3:])

    @fault(11)
    def test_a_nan_on_one_rank_stops_both(self, work):
        def poison():
            from llvip_macl.models.macl_head import MACLHead

            forward, calls = MACLHead.forward, [0]

            def poisoned(self, *arguments, **keywords):
                terms = forward(self, *arguments, **keywords)
                calls[0] += 1
                return {**terms, "macl": terms["macl"] * float("nan")} if calls[0] == 2 else terms

            MACLHead.forward = poisoned

        ended = start_world(self.command, work, {1: poison})
        assert [one.code for one in ended] == [1, 1], ended[0].output[-3000:]
        assert "loss_macl = nan" in ended[1].output and "images/set0" in ended[1].output
        assert "a loss of another process" in ended[0].output
        assert self.saved_step(work) == 1

    @fault(7)
    def test_a_file_where_the_run_belongs(self, data, tmp_path):
        run = Work(tmp_path / "work", data).run
        run.parent.mkdir()
        run.write_text("in the way")
        self.refused(self.start(tmp_path / "work").wait(), run, "is not a folder")

    @fault(5)
    def test_sigterm_during_the_export_does_not_lose_it(self, work):
        exporting = argv("metrics_export.enable=True", "metrics_export.enable_html_report=False")
        command = replace(self.command, argv=exporting)
        export = ("llvip_macl.hooks.metrics_export", "export", 1, send(signal.SIGTERM))
        self.ended_by_sigterm(start(command, work, lambda: at_call(*export)).wait())
        assert self.saved_step(work) == 6
        finished(command, work)
        assert list((work / "work_dirs/metrics_logs").glob("run_*.zip"))

    @fault(2)
    @pytest.mark.parametrize("saves", [1, 4])
    def test_kill_9_of_the_command_line_itself(self, work, reference, saves):
        """As a user starts it: another interpreter, cut once so many checkpoints lie there, and started again."""
        command = [sys.executable, str(self.command.script), *self.command.argv(work)]
        with (work / "killed.txt").open("w") as log:
            child = subprocess.Popen(command, env=plain_environment(), stdout=log, stderr=log, cwd=work)
            deadline = time.monotonic() + 300
            while not (self.run(work) / f"iter_{saves}.pth.json").exists() and child.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            child.kill()
            assert child.wait() == -signal.SIGKILL, (work / "killed.txt").read_text()[-3000:]
        done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, cwd=work, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        assert differences(reference.end, self.command.outcome(work)) == []


# --- 25 kills ---------------------------------------------------------------------------------------------------------

CUTS = [
    (checkpoint, "save", False),
    (checkpoint, "_write_manifest", False),
    (checkpoint, "_write_manifest", True),
    (RUNNER, "save_state", True),
    (LOOP, "_optimize", True),
]


@pytest.mark.slow
@fault(1)
def test_25_kills_while_every_step_is_saved(data, tmp_path):
    """Each leaves a checkpoint whose tensors are those of its step, and the last start ends as one uncut run."""
    options = ("train_cfg.max_epochs=13", "train_cfg.val_begin=100")
    uncut, work = Work(tmp_path / "uncut", data), Work(tmp_path / "one", data)
    uncut.train(*options, inject=lambda: write_down_every_save(uncut.folder / "saves.txt"))
    known = dict(line.split() for line in (uncut.folder / "saves.txt").read_text().splitlines())
    assert len(known) == 39
    draw, seen = random.Random(0), []
    for _ in range(25):
        owner, name, after = draw.choice(CUTS)
        number = draw.choice([1, 2, 2, 2])
        cut = (owner, name, number, kill)
        ended = work.start(*options, inject=lambda cut=cut, after=after: at_call(*cut, after=after)).wait()
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


# --- gradients of several batches -------------------------------------------------------------------------------------


class TestAccumulation(CommandSuite):
    """3 batches an epoch: a group of two, in whose middle nothing can be saved, and one of one."""

    command = replace(COMMAND, argv=argv("optim_wrapper.accumulative_counts=2"))
    always = ("test_sigterm_inside_a_group_waits_for_its_end",)

    @fault(3)
    def test_a_run_killed_inside_a_group_ends_as_if_uncut(self, work, reference):
        ended = self.start(work, lambda: at_call(LOOP, "_optimize", 4, kill, after=True)).wait()
        assert ended.code == -signal.SIGKILL, ended.output[-3000:]
        self.finish(work, reference)

    @fault(5)
    def test_sigterm_inside_a_group_waits_for_its_end(self, work, reference):
        signalled = (LOOP, "_optimize", 4, send(signal.SIGTERM))
        self.ended_by_sigterm(self.start(work, lambda: at_call(*signalled, after=True)).wait())
        assert self.saved_step(work) == 5
        self.finish(work, reference)

    @fault(11)
    def test_what_is_not_finite_inside_a_group_stops_before_the_step(self, work, reference):
        ended = self.start(work, lambda: poison_loss(4, float("inf"))).wait()
        assert ended.code == 1, ended.output[-3000:]
        told_not_finite(ended.output, "inf")
        assert self.saved_step(work) == 3
        self.finish(work, reference)
