"""What surrounds a training step and is not the paper: position, saving, stopping, logging.

An epoch function reads as the paper's algorithm box; the loop keeps everything that makes it survive:

    loop = Loop(stage="stage2", run=run, world=world, model=model, optimizer=optimizer, ...)
    loop.resume()
    for epoch in loop.epochs():
        for batch in loop.batches(loader):
            terms = criterion(model(batch["images"]), batch["boxes"])
            loop.step(terms, ids=batch["tokens"], count=len(batch["boxes"]))
        means = loop.close_epoch()
        run.metrics.log(loop.steps_done, evaluate(model), split="val")

A run killed anywhere continues bitwise (on CPU) from the last save: weights, moving average, optimizer, random state of
every rank, position inside the epoch, running means and the length of metrics.jsonl are saved together. A save
describes the end of an optimizer step, never the middle of an accumulation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import checkpoint
from . import run as run_module
from .ema import Ema
from .errors import CheckpointError, ConfigError
from .metrics import RunningMeans
from .optim import accumulate, apply_schedule, describe_groups, optimizer_step
from .storage import storage_error

WAIT_ALARM = 0.15  # share of a logging interval spent waiting for data, above which the log says so


@dataclass(frozen=True)
class LoopSettings:
    """epochs and accumulate count epochs and batches per optimizer step; the rest counts optimizer steps."""

    epochs: int
    accumulate: int
    clip: float
    log_every: int
    save_every: int
    keep: int


class Loop:
    """One stage's training state, and its only writer."""

    def __init__(
        self,
        *,
        stage: str,
        run: run_module.RunFolder,
        world: run_module.World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int, int], Any],
        weights: Mapping[str, float],
        sampler,
        settings: LoopSettings,
        ema: Ema | None = None,
        criterion: nn.Module | None = None,
    ):
        """schedule(step, total_steps) -> multiplier; weights: term name -> weight; sampler: the loader's batch sampler
        (`len` = batches of an epoch on this rank, `set_position(epoch, batch)`); criterion: a loss with parameters."""
        self.stage, self.run, self.world, self.settings = stage, run, world, settings
        self.model, self.optimizer, self.schedule, self.weights = model, optimizer, schedule, dict(weights)
        self.sampler, self.ema, self.criterion = sampler, ema, criterion
        self.epoch = self.batch = self.steps_done = 0
        self.best: float | None = None
        self.means, self.window = RunningMeans(), RunningMeans()
        self.clock = run_module.WaitClock()
        self._reset_interval()
        self._micro: list[tuple[Tensor, Mapping[str, Tensor], Sequence[str]]] = []
        if len(sampler) == 0:
            raise ConfigError(f"{stage}: the training data fills no batch; use smaller batches or more data")
        self.steps_per_epoch = -(-len(sampler) // settings.accumulate)
        self.total_steps = self.steps_per_epoch * settings.epochs
        run.log.info("%s: %d epochs of %d steps\n%s", stage, settings.epochs, self.steps_per_epoch,
                     describe_groups(optimizer.param_groups))  # fmt: skip

    # --- the epoch ---

    def epochs(self) -> Iterator[int]:
        """The epochs still to do, from the saved position."""
        while self.epoch < self.settings.epochs:
            yield self.epoch
            self.epoch, self.batch = self.epoch + 1, 0
            self.means = RunningMeans()

    def batches(self, loader) -> Iterator[Any]:
        """The batches of this epoch still to do. A signal waits for the end of the step that it interrupts, and the
        newest step is saved before it ends the run."""
        self.started += time.perf_counter() - self.paused
        then = (self.epoch + 1, 0) if self.epoch + 1 < self.settings.epochs else None
        with run_module.deferred():
            try:
                for batch in self.clock.timed(run_module.iterate(loader, at=(self.epoch, self.batch), then=then)):
                    self.batch += 1
                    yield batch
            except run_module.Interrupted:  # the loader gave up waiting for data; other ranks are not here to save
                if self.world.size == 1 and not self._micro:
                    self.save()
                raise
            if self.world.any(run_module.stop_requested()):  # it came after the last step had asked
                self.save()
                run_module.stop()
        self.paused = time.perf_counter()

    def step(self, terms: Mapping[str, Tensor], *, ids: Sequence[str], count: int) -> None:
        """One batch of the samples `ids`; every `accumulate` batches the weights move.

        count: how much the batch's terms weigh in the means and among the ranks: its samples where they are unweighted
        means over these, 1 where they are divided by what all ranks have already.
        """
        loss = sum(self.weights[name] * term for name, term in terms.items())
        values = {**terms, "loss": loss}
        self.means.update(values, count)
        self.window.update(values, count)
        self.samples += len(ids)
        detached = accumulate(loss * self._share(count), self._parts())
        self._micro.append((detached, {k: v.detach() for k, v in terms.items()}, ids))
        if len(self._micro) == self._parts():
            self._optimize()

    def close_epoch(self) -> dict[str, float]:
        """Save, log and return the epoch's means over all ranks."""
        self.save()
        means = self.means.compute(self.world)
        self.run.metrics.log(self.steps_done, means, split=f"{self.stage}/epoch")
        return means

    def _optimize(self) -> None:
        losses, terms, ids = zip(*self._micro, strict=True)
        self._micro = []
        apply_schedule(self.optimizer, self.schedule(self.steps_done, self.total_steps))
        result = optimizer_step(
            torch.stack(losses),
            self.model,
            self.optimizer,
            clip=self.settings.clip,
            world=self.world,
            step=self.steps_done + 1,
            terms={name: torch.stack([t[name] for t in terms]) for name in terms[0]},
            sample_ids=[sample for part in ids for sample in part],
            backward=False,
            stop=run_module.stop_requested(),
        )
        self.steps_done += 1
        if self.ema:
            self.ema.update(self.bare)
        if self.steps_done % self.settings.log_every == 0:
            self._log(result.grad_norm)
        if self.steps_done % self.settings.save_every == 0 or result.stop:
            self.save()
        if result.stop:
            run_module.stop()

    def _share(self, count: int) -> float:
        """Weight that makes the mean of the ranks' gradients the gradient of the mean over all samples."""
        if self.world.size == 1:
            return 1.0
        total = self.world.sum(torch.tensor(float(count), device=self.world.device))
        return count * self.world.size / float(total)

    def _parts(self) -> int:
        """Batches in the optimizer step under way: `accumulate`, or what the end of the epoch leaves."""
        first = (self.batch - 1) // self.settings.accumulate * self.settings.accumulate
        return min(self.settings.accumulate, len(self.sampler) - first)

    # --- saving and resuming ---

    @property
    def bare(self) -> nn.Module:
        """The model without its DistributedDataParallel wrapper."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    @property
    def folder(self):
        return self.run.path / self.stage

    def state(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, as tensors and plain Python."""
        return {
            "model": self.bare.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "criterion": self.criterion.state_dict() if self.criterion else None,
            "optimizer": self.optimizer.state_dict(),
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.steps_done},
            "means": self.means.state_dict(self.world),
            "window": self.window.state_dict(self.world),
            "best": self.best,
            "rng": self.world.gather(checkpoint.rng_state()),
            "metrics_bytes": self.run.metrics.position(),
        }

    def save(self) -> None:
        """Write `<run>/<stage>/step-<n>.pt` (rank 0), then drop old ones. A signal waits until it is written."""
        with run_module.deferred():
            state = self.state()
            if self.world.is_main:
                self._make_folder()
                path = self.folder / f"step-{self.steps_done:07d}.pt"
                checkpoint.save(path, state, step=self.steps_done, extra={"world_size": self.world.size})
                checkpoint.prune(self.folder, self.settings.keep)
            self.world.barrier()

    def _make_folder(self) -> None:
        """In the run's folder only: one that is gone is not begun anew, half, in its place."""
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def resume(self) -> bool:
        """Continue from this stage's newest good checkpoint; False when there is none.

        Raises CheckpointError when it was written by another number of processes: its random states and positions
        have no exact meaning here.
        """
        found = checkpoint.load_latest(self.folder) if self.folder.is_dir() else None
        if found is None:
            self.run.metrics.rewind(self.stage)
            return False
        path, state = found
        if not {"model", "optimizer", "position", "rng"} <= state.keys():
            raise CheckpointError(f"{path} holds no state of a training: remove it with its manifest, so that an "
                                  "earlier one is used")  # fmt: skip
        size = len(state["rng"])
        if size != self.world.size:
            raise CheckpointError(
                f"{path} was written by {size} processes and this run has {self.world.size}: start torchrun with "
                f"--nproc-per-node {size}, or begin a new run with another --run NAME"
            )
        checkpoint.load_into(self.bare, state["model"], source=path)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        if self.criterion:
            self.criterion.load_state_dict(state["criterion"])
        self.epoch, self.batch, self.steps_done = (state["position"][k] for k in ("epoch", "batch", "step"))
        self._reset_interval()
        self.means.load_state_dict(state["means"], self.world)
        self.window.load_state_dict(state["window"], self.world)
        self.best = state["best"]
        checkpoint.set_rng_state(state["rng"][self.world.rank])
        self.run.metrics.truncate(state["metrics_bytes"])
        self.run.log.info("%s: resumed from %s (epoch %d, step %d of %d)", self.stage, path.name, self.epoch + 1,
                          self.steps_done, self.total_steps)  # fmt: skip
        return True

    # --- logging ---

    def _reset_interval(self) -> None:
        """Time runs inside `batches` only: preparation and evaluation are not training."""
        self.started = self.paused = time.perf_counter()
        self.first_step, self.samples, self.window = self.steps_done, 0, RunningMeans()
        self.clock.reset()

    def _log(self, grad_norm: float) -> None:
        seconds = time.perf_counter() - self.started
        rate = self.samples * self.world.size / seconds
        wait = self.clock.seconds / seconds
        rates = {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        values = self.window.compute(self.world)
        weighted = {
            f"weighted/{name}": weight * values[name] for name, weight in self.weights.items() if name in values
        }
        timing = {"seconds": seconds, "samples_per_s": rate, "data_wait": wait}
        self.run.metrics.log(self.steps_done, {**values, **weighted, **rates, "grad_norm": grad_norm},
                             split=f"{self.stage}/train", time=timing)  # fmt: skip
        steps = self.steps_done - self.first_step
        line = run_module.format_line(
            self.epoch + 1,
            self.steps_done,
            self.total_steps,
            values,
            [group["lr"] for group in self.optimizer.param_groups],
            rate,
            wait,
            (self.total_steps - self.steps_done) * seconds / steps,
        )
        self.run.log.info("%s %s", self.stage, line)
        if wait > WAIT_ALARM:
            self.run.log.warning("%.0f %% of the time went into waiting for data: use more loader workers", 100 * wait)
        self._reset_interval()
