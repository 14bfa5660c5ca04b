"""RunLogHook: one line on the terminal an interval, and the run's record: metrics.jsonl and TensorBoard.

    work_dir/metrics.jsonl            {"step", "split": "train" | "epoch" | "val", values, "time": {...}} a line
             tensorboard_logs/        the same scalars, each once

A resumed run forgets the records after its checkpoint, in both. Everything that may differ between two equal runs
(seconds, memory) stands under "time" in metrics.jsonl. There "seconds" is an interval's length, and "data_wait" the
share of it in which a step stood still for want of a batch; MMEngine's data_time counts other hooks' work too.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS, VISBACKENDS
from mmengine.visualization import TensorboardVisBackend
from mmengine.visualization.vis_backend import force_init_env

from shared.loop import WAIT_ALARM

TIMES = ("time", "data_time", "memory", "eta", "seconds", "data_wait")


@HOOKS.register_module()
class RunLogHook(LoggerHook):
    """MMEngine's LoggerHook, recording into the run's folder too."""

    def before_train(self, runner: Any) -> None:
        """TensorBoard forgets what lies after the position that the run continues from."""
        for backend in runner.visualizer._vis_backends.values():
            if isinstance(backend, ResumableTensorboard):
                backend.purge_step = runner.iter + 1 if runner.iter else None

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """At every interval, and at an epoch's end that is too short for one."""
        length = len(runner.train_dataloader)
        at_end = batch_idx + 1 == length and (not self.ignore_last or length <= self.interval)
        if not self.every_n_inner_iters(batch_idx, self.interval) and not at_end:
            return
        tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
        runner.logger.log(logging.INFO, line)
        runner.visualizer.add_scalars(tag, step=runner.iter + 1, file_path=self.json_log_path)
        seconds = time.perf_counter() - self._began
        wait = runner.train_loop.clock.seconds / seconds
        if wait > WAIT_ALARM:
            runner.logger.warning(f"{wait:.0%} of the time went into waiting for data: raise the loader's num_workers")
        _record(runner, runner.iter + 1, "train", {**tag, "seconds": seconds, "data_wait": wait})
        self._begin_interval(runner)

    def before_train_epoch(self, runner: Any) -> None:
        self._begin_interval(runner)

    def _begin_interval(self, runner: Any) -> None:
        runner.train_loop.clock.reset()
        self._began = time.perf_counter()

    def after_train_epoch(self, runner: Any) -> None:
        """The epoch's means over all processes."""
        means = {f"mean/{name}": value for name, value in runner.train_loop.epoch_means.items()}
        runner.visualizer.add_scalars(means, step=runner.iter, file_path=self.json_log_path)
        _record(runner, runner.iter, "epoch", {"epoch": runner.epoch + 1, **means})

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """The validation's metrics, at the iteration it followed."""
        tag, line = runner.log_processor.get_log_after_epoch(runner, len(runner.val_dataloader), "val")
        runner.logger.log(logging.INFO, line)
        training = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        step = runner.iter if training else 0
        scalars = {name: value for name, value in tag.items() if name not in TIMES}
        runner.visualizer.add_scalars(scalars, step=step, file_path=self.json_log_path)
        _record(runner, step, "val", {**tag, "epoch": runner.epoch if training else 0})


def _record(runner: Any, step: int, split: str, values: Mapping[str, Any]) -> None:
    numbers = {name: value for name, value in values.items() if name not in ("iter", "step", "split")}
    times = {name: numbers.pop(name) for name in TIMES if name in numbers}
    metrics = getattr(runner, "metrics", None)
    if metrics is not None:
        metrics.log(step, numbers, split=split, time=times)


@VISBACKENDS.register_module()
class ResumableTensorboard(TensorboardVisBackend):
    """MMEngine's TensorBoard backend that can forget: `purge_step` hides what an earlier start wrote from there on.

    The configuration is not written into it: it is in the log, in run.json and beside the checkpoints.
    """

    purge_step: int | None = None

    def _init_env(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._tensorboard = SummaryWriter(self._save_dir, purge_step=self.purge_step)

    @property
    @force_init_env
    def experiment(self) -> Any:
        """The SummaryWriter."""
        return self._tensorboard

    def add_config(self, config: Any, **keywords: Any) -> None:
        """Nothing (see the class)."""
