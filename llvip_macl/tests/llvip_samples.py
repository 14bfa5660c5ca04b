"""A tiny training of the real detector: its config in a folder of its own, its command, and what it leaves.

Stage 2 at 64x96 pixels: two streams of 8 channels, MACL with dropout, DHN's queues, averaged weights, flips and colour,
a schedule, alignment and export, so that whatever a checkpoint forgets shows. Two epochs of 3 steps, each step saved
and logged, 3 test pairs. Children are forks of this process, which must have `warm()` behind it.
"""

import contextlib
import importlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import checkpoint
from shared.testing.injections import Child, Ended, metrics_of

PROJECT = Path(__file__).parents[1]
STEPS = 6
TINY = """
_base_ = {base!r}

model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16, msp_module=dict(channels=16)),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16),
        dhn=dict(type="DHNSampler", queue_size=24, top_k=8),
    ),
)
macl_head = dict(type="MACLHead", hidden_dims=(16,), proj_dim=8, dropout=0.1)
embedded = dict(pairs=(7, 3), size_hw=(64, 96), parent={data!r})
_base_.train_pipeline[2].scale = _base_.test_pipeline[1].scale = (96, 64)  # of Resize
_base_.train_pipeline[4:] = [dict(type="ColorJitter", brightness=0.2, contrast=0.2), dict(type="PackDetInputs")]
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(pipeline=_base_.train_pipeline))
val_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2, val_interval=1, checkpoint_interval_iters=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=2),
    dict(type="MultiStepLR", begin=0, end=2, by_epoch=True, milestones=[1], gamma=0.3),
]
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.1, update_buffers=True, priority=49),
    dict(type="DHNScheduleHook", milestones=[1], top_k=[4, 8], momentum=[0.9, 0.8]),
    dict(type="AlignmentHook", tsne=False),
    dict(type="MetricsExportHook"),
]
default_hooks = dict(logger=dict(interval=1))
metrics_export = dict(enable=False)  # its plots take longer than the run
randomness = dict(seed=3)
"""
STATE = ("state_dict", "ema_state_dict", "optimizer", "position", "rng")  # of a checkpoint, what equal runs share


def warm() -> None:
    """Import what every child needs, once."""
    from mmengine.runner import runner

    known = runner.collect_env()  # asks compilers for their versions, each time
    runner.collect_env = lambda: dict(known)
    for name in ("matplotlib.pyplot", "sklearn.linear_model", "pycocotools.cocoeval", "torch._dynamo",
                 "torch.utils.tensorboard", "llvip_macl.register", "llvip_macl.world", "mmengine.visualization",
                 "llvip_macl.runtime.train_command", "llvip_macl.runtime.test_command"):  # fmt: skip
        importlib.import_module(name)


def train_main() -> Callable[[list[str]], int]:
    from llvip_macl.runtime import train_command

    return train_command.main


def judge_main() -> Callable[[list[str]], int]:
    from llvip_macl.runtime import test_command

    return test_command.main


def nothing_to_train() -> None:
    """To inject: a training ends where its first epoch would begin."""
    from llvip_macl.runtime.loop import PairedEpochLoop

    PairedEpochLoop.run = lambda self: self.runner.model


class Work:
    """A folder `folder` with tiny.py; runs go to `folder/work_dirs/<name>`. `data` may be shared by folders."""

    def __init__(self, folder: Path, data: Path, *, base: str = "configs/embedded/stage2.py", text: str = ""):
        self.folder, self.data = folder, data
        self.config = folder / "tiny.py"
        self.run = folder / "work_dirs" / "tiny"
        self.options: list[str] = []  # of every start
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(TINY.format(base=str(PROJECT / base), data=str(data)) + text)

    def argv(self, *options: str, resume: bool = True, run: Path | None = None, flags: Sequence[str] = ()) -> list[str]:
        """tools/train.py's arguments: the same command for the first start and every other."""
        words = [str(self.config), "--work-dir", str(run or self.run), *(["--resume"] if resume else []), *flags]
        options = [*self.options, *options]
        return [*words, "--cfg-options", *options] if options else words

    def child(self, argv: Sequence[str], inject: Callable | None = None, *, main: Callable | None = None,
              env: Mapping[str, str] | None = None) -> Child:  # fmt: skip
        self.count += 1
        log = self.folder / f"log{self.count}.txt"
        return Child(argv, main or train_main(), log, inject, env or {})

    def start(self, *options: str, inject: Callable | None = None, env: Mapping[str, str] | None = None,
              **rest: Any) -> Child:  # fmt: skip
        return self.child(self.argv(*options, **rest), inject, env=env)

    def train(self, *options: str, code: int = 0, within_s: float = 300, **rest: Any) -> str:
        """Train to the end; the output."""
        ended = self.start(*options, **rest).wait(within_s)
        assert ended.code == code, ended.output[-4000:]
        return ended.output

    def refused(self, *told: str, options: Sequence[str] = (), code: int = 2, **rest: Any) -> str:
        """Train, and end with words for a person; the output."""
        output = self.train(*options, code=code, **rest)
        assert "Traceback" not in output, output[-4000:]
        for words in told:
            assert words in output, f"{words!r} is not in: {output[-3000:]}"
        return output

    def judge(self, weights: Path, *options: str, inject: Callable | None = None, code: int = 0,
              run: str = "test") -> str:  # fmt: skip
        """tools/test.py on these weights; the output."""
        argv = [str(self.config), str(weights), "--work-dir", str(self.folder / "work_dirs" / run)]
        argv += ["--cfg-options", *options] if options else []
        ended = self.child(argv, inject, main=judge_main()).wait(300)
        assert ended.code == code, ended.output[-4000:]
        return ended.output

    def processes(self, *options: str, inject: Mapping[int, Callable] | None = None, size: int = 2,
                  within_s: float = 120, **rest: Any) -> list[Ended]:  # fmt: skip
        """The training command in `size` processes, with torchrun's variables, to their end."""
        argv = self.argv(*options, **{"flags": ("--launcher", "pytorch"), **rest})
        return self.world(argv, inject, size=size, within_s=within_s)

    def world(self, argv: Sequence[str], inject: Mapping[int, Callable] | None = None, *, main: Callable | None = None,
              size: int = 2, within_s: float = 120) -> list[Ended]:  # fmt: skip
        children = [self.child(argv, (inject or {}).get(rank), main=main, env=env) for rank, env in ranks(size)]
        try:
            return [child.wait(within_s) for child in children]
        finally:
            for child in children:
                child.end()

    def newest(self) -> dict[str, Any] | None:
        """The state that a resume would begin from."""
        from llvip_macl.runtime.checkpoints import newest_state

        found = newest_state(self.run)
        return found and found[1]

    def end(self, name: str = "epoch_2.pth", run: Path | None = None) -> dict[str, Any]:
        """What two equal runs have in common, bit for bit."""
        return outcome(run or self.run, name)


def outcome(run: Path, name: str = "epoch_2.pth") -> dict[str, Any]:
    """Checkpoint (weights, averaged weights, optimizer, queues, random states), best, metrics, alignment of a run."""
    state = checkpoint.load(run / name)
    alignment, best = run / "alignment.json", run / "best.pth"
    return {
        **{key: state[key] for key in STATE if key in state},
        "best": state["message_hub"]["runtime_info"].get("paired_best"),
        "best weights": checkpoint.load(best.resolve())["state_dict"] if best.exists() else None,
        "metrics": metrics_of(run),
        "alignment": json.loads(alignment.read_text()) if alignment.exists() else None,
    }


def rows(run: Path, split: str) -> list[dict[str, Any]]:
    """The records of one split."""
    return [row for row in metrics_of(run) if row["split"] == split]


def ranks(size: int) -> list[tuple[int, dict[str, str]]]:
    """(rank, torchrun's variables) of a world on a free port."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = str(server.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    return [(rank, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(size)]


def plain_environment() -> dict[str, str]:
    """For real command lines: one thread, no GPU."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
