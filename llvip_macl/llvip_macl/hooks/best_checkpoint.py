"""BestCheckpointHook: epoch_N.pth after epochs, and best_epochN_lossX.pth when one is the best so far.

Best is the validation metric where a validation is configured, else the epoch's mean of the total loss; a single
iteration's loss says nothing. The name always has the epoch and its mean loss (4 decimals), the manifest beside it what
it was chosen by. `best.pth` leads to the newest best, so that a command can name it without knowing the loss.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from llvip_macl.runtime import checkpoints
from shared import checkpoint
from shared.errors import ConfigError

PREFERRED = ("kaist/MR_reasonable_all", "coco/bbox_mAP")  # of a validation's metrics, when nobody chose
LOWER_IS_BETTER = ("loss", "MR_", "/MR", "error", "ratio")
INFO = "paired_best"  # in the message hub, hence in every checkpoint


@HOOKS.register_module()
class BestCheckpointHook(Hook):
    """MMEngine's CheckpointHook for PairedRunner, with its most used arguments.

    Args:
        interval: epochs between two epoch_N.pth; -1 writes none but the last.
        by_epoch: True; iterations are train_cfg.checkpoint_interval_iters.
        max_keep_ckpts: newest epoch_N.pth that stay; -1 all. What last_checkpoint names always stays.
        save_last: write the last epoch's whatever the interval.
        save_best: 'auto', the name of a metric, or None for no best files.
        rule: 'less' or 'greater'; by the metric's name when left out.
        max_keep_best: newest best files that stay; -1 all.

    Raises:
        ConfigError: by_epoch=False, an unknown rule, or a metric that the validation does not have.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | None = "auto",
        rule: str | None = None,
        max_keep_best: int = 3,
    ) -> None:
        if not by_epoch:
            raise ConfigError("CheckpointHook(by_epoch=False): saves in mid-epoch are "
                              "train_cfg.checkpoint_interval_iters; set by_epoch=True.")  # fmt: skip
        if rule not in (None, "less", "greater"):
            raise ConfigError(f"CheckpointHook(rule={rule!r}): 'less' or 'greater'.")
        self.interval, self.max_keep_ckpts, self.save_last = interval, max_keep_ckpts, save_last
        self.save_best, self.rule, self.max_keep_best = save_best, rule, max_keep_best

    def after_train_epoch(self, runner: Any) -> None:
        """Save the epoch; without a validation, judge it by its mean loss first, so that the save knows."""
        number = runner.epoch + 1
        if not self._judged_by_validation(runner):
            self._consider(runner, number, "loss", runner.train_loop.epoch_means["loss"])
        last = number == runner.max_epochs
        if (self.interval > 0 and number % self.interval == 0) or (last and self.save_last):
            runner.save_state(runner.folder / f"epoch_{number}.pth", epoch_ended=True)
            if runner.world.is_main:
                self._purge(runner)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Judge the epoch that this validation followed."""
        in_training = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        if in_training and self._judged_by_validation(runner) and runner.epoch > 0:
            name = self._metric(metrics or {})
            self._consider(runner, runner.epoch, name, float(metrics[name]))

    def _judged_by_validation(self, runner: Any) -> bool:
        return runner.val_loop is not None and self.save_best != "loss"

    def _metric(self, metrics: Mapping[str, float]) -> str:
        numbers = [name for name, value in metrics.items() if isinstance(value, int | float)]
        if self.save_best not in (None, "auto"):
            if self.save_best not in numbers:
                raise ConfigError(f"CheckpointHook(save_best={self.save_best!r}): the validation has "
                                  f"{', '.join(numbers) or 'no metric'}.")  # fmt: skip
            return self.save_best
        chosen = next((name for name in PREFERRED if name in numbers), None) or next(iter(numbers), None)
        if chosen is None:
            raise ConfigError("the validation returned no number to choose the best by; set val_evaluator, or "
                              "default_hooks.checkpoint.save_best='loss'.")  # fmt: skip
        return chosen

    def _consider(self, runner: Any, epoch: int, metric: str, value: float) -> None:
        """Write a best file when `value` beats the best of earlier epochs (collective)."""
        if self.save_best is None:
            return
        best = runner.message_hub.runtime_info.get(INFO) or {"files": []}
        if not self._beats(metric, value, best):
            return
        loss = float(runner.train_loop.epoch_means["loss"])
        name = f"best_epoch{epoch}_loss{loss:.4f}.pth"
        files = [*(one for one in best["files"] if one != name), name]
        content = runner.weights(epoch=epoch, iteration=runner.iter)
        if runner.world.is_main:
            self._write(runner, name, content, {"epoch": epoch, "metric": metric, "value": value, "loss": loss})
            keep = files if self.max_keep_best < 0 else files[-self.max_keep_best :]
            checkpoints.remove([runner.folder / one for one in files if one not in keep])
        files = files if self.max_keep_best < 0 else files[-self.max_keep_best :]
        information = {"metric": metric, "value": value, "epoch": epoch, "files": files}
        runner.message_hub.update_info(INFO, information)
        runner.logger.info(f"best so far: epoch {epoch}, {metric} {value:.4f} -> {name}")

    def _beats(self, metric: str, value: float, best: Mapping[str, Any]) -> bool:
        """A value that is no number beats nothing; the first one, or one of another metric, beats what is there."""
        if not math.isfinite(value):
            return False
        if best.get("metric") != metric:
            return True
        less = self.rule == "less" if self.rule else any(part in metric for part in LOWER_IS_BETTER)
        return value < best["value"] if less else value > best["value"]

    @staticmethod
    def _write(runner: Any, name: str, content: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        path = runner.folder / name
        checkpoint.save(path, checkpoints.plain(content) | {"state_dict": content["state_dict"]},
                        step=runner.iter, pointers=(), extra=extra)  # fmt: skip
        checkpoints.point_best(path)

    def _purge(self, runner: Any) -> None:
        """Older epochs beyond max_keep_ckpts, and saves of mid-epochs that are over."""
        folder = runner.folder
        epochs = [path for path in checkpoints.training_checkpoints(folder) if checkpoints.EPOCH.fullmatch(path.name)]
        epochs.sort(key=lambda path: int(checkpoints.EPOCH.fullmatch(path.name)[1]))
        old = epochs[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
        inside = [path for path in checkpoints.training_checkpoints(folder) if path not in epochs]
        checkpoints.remove([*old, *inside])
