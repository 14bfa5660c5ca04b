"""MMEngine's runner, with checkpoints that survive a kill and a resume that is exact.

    runner = PairedRunner.from_cfg(cfg)
    runner.attach(run)          # the run's folder: run.json, metrics.jsonl, the lock
    runner.train()

A checkpoint describes the end of an optimizer step: weights, averaged weights, optimizer, position, losses of the epoch
so far, random states of every process, the message hub, and the length of metrics.jsonl. On the CPU a resumed run ends
bit for bit as one that was never cut.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmengine
import torch
import torch.distributed as dist
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from shared import checkpoint
from shared.errors import CheckpointError, ConfigError, UserError
from shared.folder import NoMetrics, RunFolder
from shared.loading import LoadReport, load_into
from shared.metrics_log import MetricsLog
from shared.run import World, deferred

from . import checkpoints
from .building import told
from .console import add_filter
from .loader import TellingBatches, build_loader
from .schedules import apply_settings, differences, replay, settings_of

KEPT_ITERATIONS = 2  # iter_*.pth
COLLECTED = ".collected"  # of the processes' results while they are judged; hidden, as a run's folder may hold it
LOAD_RULES = ("single_stream", "keep_class", "allow_missing", "allow_unexpected", "allow_mismatched", "min_coverage")
BASE_SETTINGS = "base_param_settings"  # of MMEngine's wrapper: a copy of the optimizer's defaults, made anew


@RUNNERS.register_module()
class PairedRunner(Runner):
    """See the module. `resume_path` in the config is what `--resume PATH` named; bare `--resume` looks in work_dir."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        checkpoints.use_safe_loading()
        self.run: RunFolder | None = None
        self.metrics: MetricsLog | NoMetrics = NoMetrics()
        self.found: tuple[Path, dict[str, Any]] | None = None
        self.saved_step = -1
        super().__init__(*arguments, **keywords)

    def attach(self, run: RunFolder) -> None:
        """Record this run in its folder. TensorBoard's events are the visualizer's."""
        self.run = run
        if self.world.is_main:
            self.metrics = MetricsLog(run.path, tensorboard=False)

    # --- what it is made of ---

    @property
    def world(self) -> World:
        """The processes of this run."""
        return World(self._rank, self._world_size, device=next(self.bare.parameters()).device)

    @property
    def bare(self) -> nn.Module:
        """The model without its DistributedDataParallel wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    @property
    def folder(self) -> Path:
        """Where checkpoints go."""
        return Path(self.work_dir)

    def build_logger(self, *arguments: Any, **keywords: Any) -> Any:
        """MMEngine's logger, without the start-up noise on the terminal."""
        logger = super().build_logger(*arguments, **keywords)
        add_filter(logger)
        return logger

    # A wrong argument in the config is told as such.
    build_model = told(Runner.build_model, "model")
    build_optim_wrapper = told(Runner.build_optim_wrapper, "optim_wrapper")
    build_param_scheduler = told(Runner.build_param_scheduler, "param_scheduler")
    build_train_loop = told(Runner.build_train_loop, "train_cfg or train_dataloader")
    register_hooks = told(Runner.register_hooks, "default_hooks or custom_hooks")

    def build_evaluator(self, evaluator: Any) -> Any:
        """MMEngine's, whose metrics gather what several processes found in the work dir, where nothing of it stays (by
        default they leave a folder `.dist_test` wherever the command was started)."""
        built = told(super().build_evaluator, "evaluator")(evaluator)
        for metric in built.metrics:
            metric.collect_dir = metric.collect_dir or str(self.folder / COLLECTED)
        return built

    def build_val_loop(self, loop: Any) -> Any:
        """MMEngine's loop, over batches whose troubles are told by sample."""
        return _telling(told(super().build_val_loop, "val_cfg or val_dataloader")(loop))

    def build_test_loop(self, loop: Any) -> Any:
        """As `build_val_loop`."""
        return _telling(told(super().build_test_loop, "test_cfg or test_dataloader")(loop))

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """MMEngine's wrapper; on the CPU, where it would name a device by number, one without device ids."""
        if not self.distributed or torch.cuda.is_available() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        from mmengine.model import MMDistributedDataParallel

        settings = {key: value for key, value in (model_wrapper_cfg or {}).items() if key != "type"}
        return MMDistributedDataParallel(module=model, **{"find_unused_parameters": True, **settings})

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """A loader that can be entered anywhere and names the samples it fails on (`runtime.loader`)."""
        return build_loader(dataloader, seed, same_seed=not diff_rank_seed)

    def share_buffers(self) -> None:
        """Give every process rank 0's buffers (statistics, queues; those of averaged weights too): they are judged
        and saved as one model."""
        if not self.distributed:
            return
        averaged = [hook.ema_model for hook in self.hooks if hasattr(hook, "ema_model")]
        for module in (self.bare, *averaged):
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    # --- saving ---

    def save_checkpoint(self, out_dir: str, filename: str, *arguments: Any, **keywords: Any) -> None:
        """MMEngine's entry (collective): the whole state at the end of the epoch at hand."""
        self.save_state(Path(out_dir) / filename, epoch_ended=keywords.get("by_epoch", True))

    def save_now(self) -> None:
        """Save the newest step as iter_N.pth, unless it is saved (collective)."""
        loop = self.train_loop
        if loop.iter == self.saved_step:
            return
        self.save_state(self.folder / f"iter_{loop.iter}.pth", epoch_ended=False)
        if self.world.is_main:
            old = [path for path in self.folder.glob("iter_*.pth") if checkpoints.ITERATION.fullmatch(path.name)]
            old.sort(key=lambda path: int(checkpoints.ITERATION.fullmatch(path.name)[1]))
            checkpoints.remove(old[:-KEPT_ITERATIONS])

    def save_state(self, path: Path, *, epoch_ended: bool) -> None:
        """Write the state and point last_checkpoint at it (collective). A signal waits until it is written.

        Raises:
            StorageError: the file system refused; earlier checkpoints are untouched.
        """
        with deferred():
            state = self.state(epoch_ended=epoch_ended)
            if self.world.is_main:
                extra = {"world_size": self.world.size, "config": self._config_name(), "epoch": state["meta"]["epoch"]}
                checkpoint.save(path, state, step=state["position"]["step"], pointers=(checkpoints.LAST,), extra=extra)
                self.logger.info(f"saved {path.name}")
            self.saved_step = state["position"]["step"]
            self.world.barrier()

    def state(self, *, epoch_ended: bool) -> dict[str, Any]:
        """Everything that decides the rest of the run, as tensors and plain Python (collective)."""
        position = self.train_loop.position(epoch_ended=epoch_ended)
        state = {
            **self.weights(epoch=position["epoch"], iteration=position["step"], all_of_it=True),
            "message_hub": checkpoints.hub_state(self.message_hub),
            "optimizer": checkpoints.plain(self.optim_wrapper.state_dict()),
            "position": position,
            "rng": self.world.gather(checkpoint.rng_state()),
            "metrics_bytes": self.metrics.position(),
        }
        return checkpoints.plain(state) | {"state_dict": state["state_dict"]}

    def weights(self, *, epoch: int, iteration: int, all_of_it: bool = False) -> dict[str, Any]:
        """{"state_dict", "meta"}: the averaged weights where there are such; all_of_it: what hooks add beside them."""
        content = {"meta": self._meta(epoch, iteration), "state_dict": checkpoints.state_dict_of(self.bare)}
        self.call_hook("before_save_checkpoint", checkpoint=content)
        return content if all_of_it else {key: content[key] for key in ("meta", "state_dict")}

    def _meta(self, epoch: int, iteration: int) -> dict[str, Any]:
        dataset = getattr(self.train_dataloader.dataset, "metainfo", None) or {}
        return {
            "epoch": epoch,
            "iter": iteration,
            "seed": self.seed,
            "cfg": self._config_text,
            "dataset_meta": checkpoints.plain(dict(dataset)),
            "experiment_name": self.experiment_name,
            "mmengine_version": mmengine.__version__,
            "time": time.strftime("%Y%m%d_%H%M%S"),
        }

    @functools.cached_property
    def _config_text(self) -> str:
        """Formatting it takes half a second: once, not at every save."""
        return self.cfg.pretty_text

    def _config_name(self) -> str:
        return Path(self.cfg.filename).name if self.cfg.filename else ""

    # --- loading ---

    def train(self) -> nn.Module:
        """MMEngine's, once it is known whether there is a state to continue from (only if not, weights are made)."""
        self.found = self._state_to_resume() if self._resume else None
        if self._resume and self.found is None:
            self.logger.info(f"--resume: {self.work_dir} holds no checkpoint yet, so the run starts from the beginning")
        self._resume = self.found is not None
        return super().train()

    def _state_to_resume(self) -> tuple[Path, dict[str, Any]] | None:
        named = self.cfg.get("resume_path")
        return (Path(named), checkpoints.read_state(named)) if named else checkpoints.newest_state(self.folder)

    def _init_model_weights(self) -> None:
        if self.found is None:
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        """Continue from the state that was found, else start from the weights of load_from, if any."""
        if self._has_loaded:
            return
        if self.found is not None:
            self._restore(*self.found)
            self.found = None  # its tensors are in the model now
        elif self._load_from is not None:
            self.load_checkpoint(self._load_from)
        self._has_loaded = True
        if self.saved_step < 0:
            self.metrics.rewind(None)  # nothing was resumed

    def resume(self, filename: str, *arguments: Any, **keywords: Any) -> None:
        """Continue from a named checkpoint of this package."""
        self._restore(Path(filename), checkpoints.read_state(filename))

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = True, revise_keys: Any = None
    ) -> dict[str, Any]:
        """Weights into the model, strictly but for the patterns of `load_rules` in the config; the report is logged.

        A checkpoint of a single-stream detector of mmdet goes into both streams with `load_rules.single_stream=True`;
        of its classes `load_rules.keep_class=0` keeps one.

        Raises:
            CheckpointError: missing, damaged, refused, or it does not fit.
        """
        rules = dict(self.cfg.get("load_rules") or {})
        unknown = set(rules) - set(LOAD_RULES)
        if unknown:
            raise ConfigError(f"load_rules.{min(unknown)} is unknown; there are {', '.join(LOAD_RULES)}.")
        state, meta = self._weights_of(str(filename))
        state = self._mapped(state, rules.pop("single_stream", False), rules.pop("keep_class", None))
        report = self._fit(state, filename, rules)
        content = {"state_dict": state, "meta": meta}
        self.call_hook("after_load_checkpoint", checkpoint=content)
        self.logger.info(f"weights of {filename}: {report}")
        self._has_loaded = True
        return content

    def _weights_of(self, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if "://" not in source:
            return checkpoints.read_weights(source)
        from mmengine.runner.checkpoint import CheckpointLoader

        content = CheckpointLoader.load_checkpoint(source, "cpu")
        return content["state_dict"], content.get("meta", {})

    def _mapped(self, state: dict[str, Any], single_stream: bool, keep_class: int | None) -> dict[str, Any]:
        """Released weights of a single-stream detector, made to fit this one."""
        from ..models.weights import keep_one_class, single_stream_to_pair

        changes = []
        if keep_class is not None:
            changes.append(lambda weights: keep_one_class(weights, keep_class))
        if single_stream:
            two_necks = getattr(self.bare, "neck_ir", None) is not None
            changes.append(lambda weights: single_stream_to_pair(weights, two_necks=two_necks))
        for change in changes:
            mapped = change(state)
            state = mapped.state_dict
            self.logger.info(mapped.report)
        return state

    def _fit(self, state: Mapping[str, Any], filename: str, rules: Mapping[str, Any]) -> LoadReport:
        try:
            return load_into(self.bare, state, **rules)
        except CheckpointError as error:
            raise CheckpointError(
                f"load_from={filename}: {error}\n  What may deviate is named by patterns in the config: "
                "load_rules = dict(allow_missing=['roi_head.dhn.*'], allow_unexpected=[...], allow_mismatched=[...])."
            ) from error

    def _restore(self, path: Path, state: dict[str, Any]) -> None:
        self._check_resumable(path, state)
        load_into(self.bare, state["state_dict"], source=path)  # refused here, before a hook stumbles over its names
        if state["state_dict"].keys() != self.bare.state_dict().keys():
            raise CheckpointError(f"{path}: its weights carry a wrapper's prefix (module., _orig_mod.), which no state "
                                  f"of ours has. For its weights alone use load_from={path}")  # fmt: skip
        self.train_loop.restore(state["position"], str(path))
        self.call_hook("after_load_checkpoint", checkpoint=state)
        load_into(self.bare, state["state_dict"])
        checkpoints.restore_hub(self.message_hub, state["message_hub"])
        self._restore_optimizer(state)
        checkpoint.set_rng_state(state["rng"][self._rank])
        self.metrics.truncate(state["metrics_bytes"])
        self.saved_step = state["position"]["step"]
        self._resume = True
        where = f"epoch {self.epoch}, {self.train_loop.batch} batches into the next"
        self.logger.info(f"resumed from {path}: {where}, iteration {self.iter} of {self.max_iters}")

    def _check_resumable(self, path: Path, state: Mapping[str, Any]) -> None:
        size, seed = len(state["rng"]), state["meta"].get("seed")
        if size != self._world_size:
            raise CheckpointError(
                f"{path} was written by {size} processes and this run has {self._world_size}: start as many "
                "(torchrun --nproc-per-node), or begin a new run with load_from."
            )
        if seed != self.seed:
            raise UserError(f"{path} is of a run with randomness.seed={seed}, and this one has {self.seed}: resume "
                            "with that seed, or begin a new run in another --work-dir.")  # fmt: skip

    def _restore_optimizer(self, state: Mapping[str, Any]) -> None:
        """Moments from the checkpoint; rates, decay and the schedule from the config, replayed to the position."""
        wrapper, position = self.optim_wrapper, state["position"]
        wanted = settings_of(wrapper)
        wrapper.load_state_dict({key: value for key, value in state["optimizer"].items() if key != BASE_SETTINGS})
        saved = settings_of(wrapper)
        apply_settings(wrapper, wanted)
        replay(self.param_schedulers or [], wrapper, epochs=position["epoch"], iterations=position["step"],
               epoch_length=position["epoch_length"])  # fmt: skip
        changed = differences(saved, settings_of(wrapper))
        if changed:
            self.logger.log(logging.WARNING, "the config changed since the checkpoint and is followed: "
                            + "; ".join(changed))  # fmt: skip


def _telling(loop: Any) -> Any:
    loop.dataloader = TellingBatches(loop.dataloader)
    return loop
