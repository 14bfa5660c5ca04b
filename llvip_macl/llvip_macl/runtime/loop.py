"""The epochs: MMEngine's loop, with a step that is checked and an epoch that can be entered in the middle.

The step is written out where MMEngine hides it in `train_step`, since four things belong between its parts:

    forward -> losses -> backward -> are they finite (on every process)? -> after_backward -> clip -> step

A signal waits for the end of the step it interrupts; the newest step is saved before it ends the run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor, nn

from shared import run as run_module
from shared.errors import CheckpointError, NonFiniteError
from shared.metrics import RunningMeans

from .checkpoints import plain
from .loader import batches_of
from .schedules import warmup_warning

SMALLEST_SCALE = 1e-3  # of float16's loss scaling: below it every gradient overflows, which is no accident any more


@LOOPS.register_module()
class PairedEpochLoop(EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop with exact resume.

    Args:
        checkpoint_interval_iters: also save in mid-epoch, every so many iterations; 0 never.
        others: MMEngine's.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list | None = None,
        checkpoint_interval_iters: int = 0,
    ) -> None:
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals)
        self.checkpoint_interval_iters = checkpoint_interval_iters
        self.batch = 0  # batches done of the epoch at hand
        self.means = RunningMeans()  # of the epoch's losses
        self.epoch_means: dict[str, float] = {}  # of the last whole epoch, over all processes
        self.resumed = False
        self.clock = run_module.WaitClock()  # how long the steps waited for data, since RunLogHook's last line

    # --- the run ---

    def run(self) -> nn.Module:
        """Train to the last epoch, validating as configured; returns the model."""
        self.runner.call_hook("before_train")
        self._warn_of_warmup()
        if self.resumed and self.batch == 0 and self.validates_after(self._epoch):
            self._validate()  # it belongs to the epoch before, and was cut or may have been
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if self.validates_after(self._epoch):
                self._validate()
        self.runner.call_hook("after_train")
        return self.runner.model

    def validates_after(self, epochs: int) -> bool:
        """Whether a validation follows the end of the `epochs`-th epoch."""
        if self.runner.val_loop is None or epochs < max(self.val_begin, 1):
            return False
        return epochs % self.val_interval == 0 or epochs == self._max_epochs

    def _validate(self) -> None:
        self._decide_current_val_interval()
        self.runner.val_loop.run()

    def run_epoch(self) -> None:
        """The rest of the epoch at hand."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self._group_batches()
        with run_module.deferred():
            for data_batch in self._batches():
                self.run_iter(self.batch, data_batch)
            self.close_epoch()
            if self.runner.world.any(run_module.stop_requested()):
                self.runner.save_now()
                run_module.stop()

    def _group_batches(self) -> None:
        """Let an accumulation end with the epoch, its last group being smaller: MMEngine's would reach into the next
        epoch, and the checkpoint between them would be without its gradients."""
        wrapper = self.runner.optim_wrapper
        if wrapper._accumulative_counts > 1:
            wrapper.initialize_count_status(self.runner.model, self.batch, len(self.dataloader))

    def _batches(self) -> Iterator[Any]:
        then = (self._epoch + 1, 0) if self._epoch + 1 < self._max_epochs else None
        try:
            yield from self.clock.timed(batches_of(self.dataloader, (self._epoch, self.batch), then))
        except run_module.Interrupted:  # the loader gave up waiting for data; other processes are not here to save
            if self.runner.world.size == 1 and self.batch:
                self.runner.save_now()
            raise

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """One batch: hooks, step, hooks, and a save when it is due or a signal waits."""
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self._optimize(data_batch)
        self.means.update(outputs, 1)
        self.batch = idx + 1
        self.runner.call_hook("after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1
        if self.batch < len(self.dataloader):  # the end of the epoch saves by itself
            self._save_if_due()

    def _save_if_due(self) -> None:
        if not self.runner.optim_wrapper.should_update():
            return  # inside an accumulation: its gradients are in no checkpoint
        stop = self.runner.world.any(run_module.stop_requested())
        if stop or (self.checkpoint_interval_iters and self._iter % self.checkpoint_interval_iters == 0):
            self.runner.save_now()
        if stop:
            run_module.stop()

    def close_epoch(self) -> None:
        """The epoch's means, its hooks (which save), and the step to the next one."""
        self.epoch_means = self.means.compute(self.runner.world)
        self.runner.share_buffers()
        self.runner.call_hook("after_train_epoch")
        self._epoch, self.batch, self.means = self._epoch + 1, 0, RunningMeans()

    # --- the step ---

    def _optimize(self, data_batch: Any) -> dict[str, Tensor]:
        """Forward, backward, check, step; returns every loss and diagnostic, and `loss`, their sum."""
        model, wrapper = self.runner.model, self.runner.optim_wrapper
        bare = model.module if is_model_wrapper(model) else model
        with wrapper.optim_context(model):
            data = bare.data_preprocessor(data_batch, True)
            losses = model._run_forward(data, mode="loss")
        loss, values = bare.parse_losses(losses)
        wrapper.backward(wrapper.scale_loss(loss))
        norm = self._check_finite(loss, values, wrapper, data_batch)
        if hasattr(bare, "after_backward"):
            bare.after_backward()
        if wrapper.should_update():
            wrapper.step()
            wrapper.zero_grad()
        if not wrapper.clip_grad_kwargs:  # clipping logs it by itself
            self.runner.message_hub.update_scalar("train/grad_norm", float(norm))
        return {name: value.detach() for name, value in values.items()}

    def _check_finite(self, loss: Tensor, values: Mapping[str, Tensor], wrapper: Any, data_batch: Any) -> Tensor:
        """The gradient's norm. NonFiniteError on every process, before the step, when a loss or it is not finite."""
        norm = gradient_norm(wrapper.optimizer)
        scaler = getattr(wrapper, "loss_scaler", None)
        # Where float16 scales the loss, an overflow is its business: it skips the step and lowers the scale.
        good = torch.isfinite(loss.detach()) & (torch.isfinite(norm) if scaler is None else scaling_works(scaler))
        if not self.runner.world.any(not bool(good)):
            return norm
        terms = ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
        raise NonFiniteError(
            f"step {self._iter + 1} (epoch {self._epoch + 1}): loss or gradient is not finite "
            f"(gradient norm {float(norm):.4g}); {terms}; samples of this rank: {', '.join(sample_ids(data_batch))}. "
            "The weights are those before this step. Look at these samples, or lower the learning rate."
        )

    # --- position ---

    def position(self, *, epoch_ended: bool) -> dict[str, Any]:
        """Where the run is, as plain Python (collective)."""
        return {
            "epoch": self._epoch + 1 if epoch_ended else self._epoch,
            "batch": 0 if epoch_ended else self.batch,
            "step": self._iter,
            "epoch_length": len(self.dataloader),
            "means": RunningMeans().state_dict() if epoch_ended else self.means.state_dict(self.runner.world),
            "epoch_means": plain(self.epoch_means),
        }

    def restore(self, position: Mapping[str, Any], source: str) -> None:
        """Continue from a position.

        Raises:
            CheckpointError: it is inside an epoch, whose batches are not the same any more.
        """
        length = len(self.dataloader)
        if position["batch"] and position["epoch_length"] != length:
            raise CheckpointError(
                f"{source} lies inside an epoch of {position['epoch_length']} batches, and an epoch has {length} now "
                "(other data, batch size or number of processes): resume with the earlier settings, or from an "
                "epoch_*.pth."
            )
        self._epoch, self.batch, self._iter = (position[key] for key in ("epoch", "batch", "step"))
        self.means.load_state_dict(position["means"], self.runner.world)
        self.epoch_means = dict(position["epoch_means"])
        self.resumed = True

    def _warn_of_warmup(self) -> None:
        warning = warmup_warning(self.runner.param_schedulers or (), self._max_iters)
        if warning:
            self.runner.logger.log(logging.WARNING, warning)


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Euclidean norm () of all gradients of an optimizer's parameters; 0 when there are none."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())


def scaling_works(scaler: Any) -> Tensor:
    """() bool: whether float16's loss scale is still one that a gradient may survive."""
    return torch.tensor(scaler.get_scale() > SMALLEST_SCALE)


def sample_ids(data_batch: Any) -> list[str]:
    """Names of a batch's samples: their visible image's path, else their id."""
    samples: Sequence[Any] = data_batch.get("data_samples", ()) if isinstance(data_batch, Mapping) else ()
    return [str(one.metainfo.get("img_path") or one.metainfo.get("img_id", "?")) for one in samples] or ["unknown"]
