"""AlignmentHook: after an epoch, how well the two modalities agree on the persons of the validation set.

    custom_hooks = [dict(type='AlignmentHook', max_pairs=256)]

It leaves scalars `alignment/...` (TensorBoard, the log, metrics), all measures with intervals and chance levels in
`<work_dir>/alignment.json`, and a t-SNE picture. Pictures go to `work_dirs/tsne_vis`, which runs share, under a name
that is this run's alone (`tsne_epoch7_<run>.png`); `tsne_epoch7.png` is written too unless it is another run's, which
is kept and named in the log. Training is not disturbed: weights, BatchNorm, queues and random generators stay.
"""

from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from llvip_macl.evaluation.alignment import Measure, alignment_report, legacy_tsne_ratio, lines, scalars
from llvip_macl.evaluation.export import (
    EMBEDDED_MARK,
    owner_of,
    picture_owner,
    read_alignment,
    shared_folder,
    write_alignment,
    write_figure,
)
from llvip_macl.evaluation.paired_rois import PairedRows, can_pair, gather_pairs
from llvip_macl.evaluation.tsne import FEWEST_PAIRS, pairs_figure, tsne_plane
from shared.errors import ConfigError


@HOOKS.register_module()
class AlignmentHook(Hook):
    """Measures alignment on the validation set after every `interval`-th epoch.

    Args:
        max_pairs: at most so many persons (their images are the same in every epoch and run).
        interval: epochs between measurements.
        when: 'val' measures after validation, with the weights validated (EMA's where EMAHook is used), 'train' after
            the training epoch.
        tsne: also draw, and add `legacy_tsne_ratio` (0.5 = mixed, lower is better).
        seed: of the choice of images, the bootstrap, and t-SNE.
        tsne_dir: for the pictures; default `work_dirs/tsne_vis`, or in the work_dir when it lies elsewhere.

    A detector of one modality has nothing to align: said once, then the hook rests. Raises ConfigError for bad values.
    """

    priority = "ABOVE_NORMAL"  # before EMAHook takes its weights back, before LoggerHook writes

    def __init__(
        self,
        max_pairs: int = 256,
        interval: int = 1,
        when: str = "val",
        tsne: bool = True,
        seed: int = 0,
        tsne_dir: str | None = None,
    ) -> None:
        if when not in ("val", "train") or max_pairs < 2 or interval < 1:
            raise ConfigError(
                f"AlignmentHook(max_pairs={max_pairs}, interval={interval}, when={when!r}): at least 2 pairs, an "
                "interval of at least 1, when 'val' or 'train'"
            )
        self.max_pairs, self.interval, self.when = max_pairs, interval, when
        self.tsne, self.seed, self.tsne_dir = tsne, seed, tsne_dir
        self.active = False

    def before_train(self, runner: Any) -> None:
        """Start, or go on: entries of epochs that this run has not reached are an earlier run's and go."""
        self.active = is_main_process() and can_pair(_bare(runner.model))
        if not self.active:
            if is_main_process():
                runner.logger.info("AlignmentHook rests: the detector does not embed both modalities")
            return
        entries = read_alignment(_record(runner))
        if entries:
            write_alignment(_record(runner), [entry for entry in entries if entry["epoch"] <= runner.epoch])

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if self.when != "val" or not self.active or runner.epoch % self.interval:
            return
        values = self._measure(runner, runner.epoch)
        for name, value in values.items():
            runner.message_hub.update_scalar(f"val/{name}", value)  # LoggerHook takes them from here
        if metrics is not None:
            metrics.update(values)

    def after_train_epoch(self, runner: Any) -> None:
        epoch = runner.epoch + 1  # the loop counts it after this
        if self.when == "train" and self.active and epoch % self.interval == 0:
            runner.visualizer.add_scalars(self._measure(runner, epoch), step=epoch)

    def _measure(self, runner: Any, epoch: int) -> dict[str, float]:
        """Measure, keep, draw; {"alignment/<measure>": value}."""
        dataset = runner.val_dataloader.dataset
        pairs = gather_pairs(_bare(runner.model), dataset, max_pairs=self.max_pairs, seed=self.seed)
        if len(pairs.images) < 2:
            runner.logger.warning("alignment after epoch %d: only one person in the validation set", epoch)
            return {}
        report = alignment_report(pairs.visible, pairs.infrared, pairs.images, seed=self.seed)
        if self.tsne and len(pairs.images) >= FEWEST_PAIRS:
            report["legacy_tsne_ratio"] = self._draw(runner, epoch, pairs)
        measures = {name: measure.to_json() for name, measure in report.items()}
        entry = {"epoch": epoch, "pairs": len(pairs.images), "space": pairs.space, "measures": measures}
        write_alignment(_record(runner), [*read_alignment(_record(runner)), entry])
        text = "\n".join(lines(report))
        runner.logger.info("alignment after epoch %d: %d persons, %s\n%s", epoch, entry["pairs"], pairs.space, text)
        return {f"alignment/{name}": value for name, value in scalars(report).items()}

    def _draw(self, runner: Any, epoch: int, pairs: PairedRows) -> Measure:
        """The picture under this run's name, and under the plain one unless another run has it."""
        plane = tsne_plane(pairs.visible, pairs.infrared, self.seed)
        run, owner = f"{Path(runner.work_dir).name}_{runner.timestamp}", owner_of(runner.work_dir)
        mark = EMBEDDED_MARK if runner.cfg.get("embedded_world") else ""
        figure = pairs_figure(*plane, f"t-SNE of paired persons, epoch {epoch}, {run}", mark)
        folder = Path(self.tsne_dir) if self.tsne_dir else shared_folder(runner.work_dir, "tsne_vis")
        write_figure(folder / f"tsne_epoch{epoch}_{run}.png", figure, owner)
        plain = folder / f"tsne_epoch{epoch}.png"
        if plain.exists() and picture_owner(plain) != owner:
            runner.logger.info("%s is another run's and is kept; this run's is tsne_epoch%d_%s.png", plain, epoch, run)
        else:
            write_figure(plain, figure, owner)
        return Measure(legacy_tsne_ratio(*plane), chance=0.5)


def _record(runner: Any) -> Path:
    return Path(runner.work_dir) / "alignment.json"


def _bare(model: Any) -> Any:
    """The detector inside DistributedDataParallel."""
    return model.module if is_model_wrapper(model) else model
