"""Every option that reads weights or a state, on files from outside, through tools/train.py and tools/test.py.

What the functions behind them read and refuse is tried in test_llvip_checkpoints.py, configurations in
test_llvip_refusals.py.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from llvip_samples import Work, judge_main, train_main

from llvip_macl.runtime.checkpoints import LAST
from shared import checkpoint
from shared.testing.file_faults import WRAPPED, FileFaults, Reader, cut_short
from shared.testing.injections import Child

LOOP = "llvip_macl.runtime.loop:PairedEpochLoop"
BIAS = "roi_head.bbox_head.fc_cls.bias"


def train(argv):
    return train_main()(argv)


def judge(argv):
    return judge_main()(argv)


def epoch_1(work):
    return work / "work_dirs/tiny/epoch_1.pth"


def command(*flags, run="other", options=()):
    """work folder -> arguments of tools/train.py; `{file}` stands for epoch_1.pth."""

    def argv(work):
        def words(given):
            return [word.format(file=epoch_1(work)) for word in given]

        more = ["--cfg-options", *words(options)] if options else []
        return [str(work / "tiny.py"), "--work-dir", str(work / "work_dirs" / run), *words(flags), *more]

    return argv


@pytest.fixture(scope="module")
def prepared(data, tmp_path_factory):
    """A run that was cut in its second epoch."""
    work = Work(tmp_path_factory.mktemp("prepared") / "work", data).folder
    cut_short(train, command("--resume", run="tiny")(work), work.parent, (LOOP, "_optimize"), 5)
    return work


LOAD_FROM = Reader(
    name="load_from",
    main=train,
    argv=command(options=["load_from={file}"]),
    file=epoch_1,
    taken=(LOOP, "run"),
    table="state_dict",
    accepts=(*WRAPPED, "manifest missing"),
)


class TestFiles(FileFaults):
    readers = (
        LOAD_FROM,
        replace(LOAD_FROM, name="load_from bare", bare=True, few=True),
        Reader("resume", train, command("--resume", run="tiny"), lambda work: work / "work_dirs/tiny/iter_4.pth",
               (LOOP, "run"), table="state_dict", pointer=LAST, accepts=()),
        Reader("--resume", train, command("--resume", "{file}"), epoch_1, (LOOP, "run"), table="state_dict", few=True,
               accepts=()),
        Reader("test", judge, lambda work: [str(work / "tiny.py"), str(epoch_1(work)), "--work-dir", str(work / "out")],
               epoch_1, ("mmengine.runner.loops:TestLoop", "run"), table="state_dict", few=True,
               accepts=(*WRAPPED, "manifest missing")),
        Reader("init_cfg", train, command(options=["model.backbone.init_cfg.type=Pretrained",
                                                   "model.backbone.init_cfg.checkpoint={file}"]),
               epoch_1, (LOOP, "run"), table=None, few=True, accepts=("manifest missing",)),
    )  # fmt: skip


# --- weights that may deviate -----------------------------------------------------------------------------------------


@pytest.fixture
def work(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "work", symlinks=True))


def loaded(work, weights, *options):
    """What a training says that takes these weights and then has nothing to train."""
    torch.save(weights, work / "other.pth")
    argv = command(options=[f"load_from={work / 'other.pth'}", *options])(work)
    ended = Child(argv, train, work / "log.txt", nothing_to_train, {}).wait(300)
    assert ended.code == 0, ended.output[-3000:]
    return ended.output


def nothing_to_train():
    from llvip_macl.runtime.loop import PairedEpochLoop

    PairedEpochLoop.run = lambda self: self.runner.model


@pytest.mark.fault(10)
@pytest.mark.slow
def test_allowed_patterns_let_weights_pass_and_still_list_them(work):
    weights = checkpoint.load(epoch_1(work))["state_dict"]
    other = {**{name: value for name, value in weights.items() if name != BIAS}, "extra.weight": torch.ones(2)}
    patterns = ["load_rules.allow_missing=['roi_head.bbox_head.*']", "load_rules.allow_unexpected=['extra.*']"]
    output = loaded(work, other, *patterns)
    assert BIAS in output and "extra.weight" in output


@pytest.mark.fault(10)
@pytest.mark.slow
def test_averaged_weights_alone_are_weights(work):
    state = checkpoint.load(epoch_1(work))["ema_state_dict"]
    averaged = {name.removeprefix("module."): v for name, v in state.items() if name.startswith("module.")}
    assert "100.0 % of the model's values" in loaded(work, averaged)
