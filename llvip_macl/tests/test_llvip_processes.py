"""Several processes: two that train together (gloo, on the CPU), and the loader's workers. More: test_llvip_faults."""

import os
import re
import shutil
import signal
import time

import pytest
import torch
from llvip_samples import Work, rows

from shared import checkpoint
from shared.testing.injections import at_call, differences, kill, send, without_chance

slow = pytest.mark.slow


def loop():
    from llvip_macl.runtime.loop import PairedEpochLoop

    return PairedEpochLoop


# --- two processes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """Two processes, never cut, each writing down what it ends with; and the folder of these notes."""
    one = Work(tmp_path_factory.mktemp("pair") / "one", data)
    ended = one.processes(inject={rank: lambda rank=rank: note_the_end(one.folder / f"rank{rank}") for rank in (0, 1)})
    assert [each.code for each in ended] == [0, 0], "".join(each.output[-3000:] for each in ended)
    return one


def note_the_end(path):
    original = loop().run

    def run(self):
        model = original(self)
        averaged = [hook.ema_model for hook in self.runner.hooks if hasattr(hook, "ema_model")]
        path.write_text(" ".join(checkpoint.tensors_sha256(m.state_dict()) for m in (self.runner.bare, *averaged)))
        return model

    loop().run = run


def test_two_processes_end_with_one_model_queues_included(pair):
    """Weights, statistics (rank 0's, shared at the epoch's end), queues (of both ranks' keys), and all of it averaged,
    are the same bits."""
    notes = [(pair.folder / f"rank{rank}").read_text() for rank in (0, 1)]
    assert notes[0] == notes[1]
    assert len(notes[0].split()) == 2
    state = checkpoint.load(pair.run / "epoch_2.pth")
    assert len(state["rng"]) == 2
    assert int(state["state_dict"]["roi_head.dhn.valid"]) > 0
    steps = rows(pair.run, "train")
    assert [row["step"] for row in steps] == [1, 2]  # 6 of the 7 frames show persons, 3 a rank: a batch an epoch
    assert len(rows(pair.run, "val")) == 2


@pytest.mark.fault(3)
@slow
@pytest.mark.parametrize("point", ["step", "validation"])
def test_two_processes_cut_and_continued_end_as_if_uncut(work, pair, point):
    name, number = {"step": ("_optimize", 2), "validation": ("_validate", 1)}[point]
    injected = {rank: lambda: at_call(loop(), name, number, kill, after=point == "step") for rank in (0, 1)}
    ended = work.processes(inject=injected)
    assert -signal.SIGKILL in {one.code for one in ended}
    assert 0 not in {one.code for one in ended}
    ended = work.processes()
    assert [one.code for one in ended] == [0, 0], ended[0].output[-3000:]
    assert differences(pair.end(), work.end()) == []


@pytest.mark.fault(5)
@slow
def test_sigterm_to_one_process_saves_and_ends_both(work, pair):
    ended = work.processes(inject={1: lambda: at_call(loop(), "_optimize", 2, send(signal.SIGTERM))})
    assert [one.code for one in ended] == [143, 143], ended[0].output[-3000:]
    assert work.newest()["position"]["step"] == 2
    work.processes()
    assert differences(pair.end(), work.end()) == []


def note_the_first_step(path):
    """One step without chance: dropout and batch statistics off, samples drawn from the front; then the end."""
    from mmdet.models.task_modules.samplers import RandomSampler

    without_chance()
    RandomSampler.random_choice = lambda self, gallery, num: gallery[:num]
    optimize, check, norms = loop()._optimize, loop()._check_finite, []

    def checked(self, *arguments):
        norms.append(check(self, *arguments))
        return norms[-1]

    def noted(self, batch):
        values = optimize(self, batch)
        queue = {name: value for name, value in self.runner.bare.state_dict().items() if ".dhn." in name}
        note = {"values": values, "norm": norms[-1], "queue": queue, "images": len(batch["data_samples"])}
        torch.save(note, path)
        os.kill(os.getpid(), signal.SIGKILL)

    loop()._check_finite, loop()._optimize = checked, noted


def first_steps(data, folder, *options, text=""):
    """What two processes note of their first step with one pair each, and one process with both."""
    alone, together = Work(folder / "alone", data, text=text), Work(folder / "together", data, text=text)
    alone.start(*options, inject=lambda: note_the_first_step(folder / "0")).wait()
    notes = {rank: lambda rank=rank: note_the_first_step(folder / f"{rank + 1}") for rank in (0, 1)}
    together.processes(*options, "train_dataloader.batch_size=1", inject=notes)
    found = [torch.load(folder / str(n), weights_only=True) for n in range(3)]
    assert [note["images"] for note in found] == [2, 1, 1]
    return found


DETECTION = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox")
NO_MACL = "\nmacl_head = None\nmodel['roi_head']['dhn'] = None\ncustom_hooks = []\n"


@pytest.mark.fault(22)
@pytest.mark.parametrize("empty", [False, pytest.param(True, marks=slow)])
def test_losses_and_gradient_are_those_of_one_process_with_all_pairs(data, tmp_path, empty):
    """mmdet samples as many anchors and RoIs of every image, so means over ranks are means over all samples, also
    where one rank has nobody to find."""
    options = []
    if empty:
        with_nobody_in_the_second(data, tmp_path)
        options = [f"data_root={tmp_path / 'world'}", "train_dataloader.dataset.filter_cfg=None",
                   "train_dataloader.dataset.ann_file=imageSets/mixed.txt"]  # fmt: skip
    rel = 1e-2 if empty else 1e-4  # mmdet counts 129 anchors, not 128, for an image without a positive one
    alone, *ranks = first_steps(data, tmp_path, *options, text=NO_MACL)
    for name in DETECTION:
        mean = sum(float(note["values"][name]) for note in ranks) / 2
        assert mean == pytest.approx(float(alone["values"][name]), rel=rel), name
    assert float(ranks[0]["norm"]) == pytest.approx(float(alone["norm"]), rel=rel)
    assert float(ranks[0]["norm"]) == float(ranks[1]["norm"])


def with_nobody_in_the_second(data, folder):
    """A copy of the world whose training list `mixed` has two frames, the second without a person."""
    Work(folder / "draw", data).start(inject=lambda: at_call(loop(), "_optimize", 1, kill)).wait()
    (world,) = [path for path in data.iterdir() if path.is_dir() and (path / "imageSets").is_dir()]
    shutil.copytree(world, folder / "world")
    frames = (folder / "world/imageSets/train-all-02.txt").read_text().split()[:2]
    (folder / "world/imageSets/mixed.txt").write_text("\n".join(frames) + "\n")
    label = folder / "world/annotations-xml-new" / f"{frames[1]}.xml"
    label.write_text(re.sub(r"<object>.*</object>", "", label.read_text(), flags=re.DOTALL))


@pytest.mark.fault(22)
@slow
def test_the_queues_of_two_processes_are_those_of_one_with_all_pairs(data, tmp_path):
    """The key encoder starts as MACL's projection, so the first step's keys do not depend on who computed them."""
    alone, *ranks = first_steps(data, tmp_path)
    names = [name for name in alone["queue"] if "queue" in name or name.endswith(("valid", "pointer", "images"))]
    assert int(alone["queue"]["roi_head.dhn.valid"]) > 0
    for name in names:
        assert torch.equal(ranks[0]["queue"][name], ranks[1]["queue"][name]), name
        torch.testing.assert_close(ranks[0]["queue"][name], alone["queue"][name], rtol=1e-4, atol=1e-5)


# --- the loader's workers ---------------------------------------------------------------------------------------------


def trouble(what, number, split="train"):
    """The worker that reads pair `number` of a split is killed, raises, or hangs."""
    from llvip_macl.data.paired_dataset import PairedDataset

    prepare = PairedDataset.prepare_data

    def prepared(self, idx):
        if int(idx) == number and self.test_mode == (split == "test"):
            os.write(1, f"\nsignal sent at {time.monotonic():.3f} s\n".encode())
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "raises":
                raise RuntimeError("the disk is odd")
            time.sleep(1000)
        return prepare(self, idx)

    PairedDataset.prepare_data = prepared


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("what", "told"),
    [("killed", "worker died"), pytest.param("raises", "the disk is odd", marks=slow), ("hangs", "worker hangs")],
)
@pytest.mark.parametrize("split", ["train", pytest.param("test", marks=slow)])
def test_a_worker_in_trouble_ends_the_run_and_names_the_pair(data, tmp_path, what, told, split):
    loader = "train_dataloader" if split == "train" else "val_dataloader"
    work = Work(tmp_path / "one", data, text=f"\n{loader}.update(num_workers=2, timeout=4)\n")
    ended = work.start(inject=lambda: trouble(what, 1, split)).wait(120)
    assert ended.code == (1 if what == "raises" else 2), ended.output[-3000:]
    assert told in ended.output
    assert re.search(r"images/set\d\d/V\d\d\d/visible/I\d{5}", ended.output), ended.output[-1500:]
    assert ended.seconds_since_signal() < 4 + 10
