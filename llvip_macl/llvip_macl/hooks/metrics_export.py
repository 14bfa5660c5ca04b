"""MetricsExportHook: what a run measured, for people: curves of every validation, and one zip with one HTML page.

    metrics_export = dict(enable_html_report=True)            # at the top of a config: `--cfg-options` reaches it
    custom_hooks = [dict(type='MetricsExportHook')]

The settings are read from `runner.cfg.metrics_export` when the run starts: a copy inside `custom_hooks` would not
follow `--cfg-options`. After training `work_dirs/metrics_logs/run_<timestamp>.zip` holds scalars (JSON, CSV), alignment
values, the config and a self-contained report, which also lies in the work_dir. A resumed run's zip holds the whole
history, each step once. Miss-rate curves are drawn into `<work_dir>/figures` after every validation and test.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from llvip_macl.evaluation.export import (
    EMBEDDED_MARK,
    owner_of,
    report_html,
    scalar_records,
    scalars_csv,
    scalars_json,
    shared_folder,
    write_zip,
)
from llvip_macl.evaluation.fppi import save_curves
from shared.errors import ConfigError
from shared.storage import write_atomic


@dataclass(frozen=True)
class ExportSettings:
    """`metrics_export` of a config: export at all, with the page, and where the zip goes (default: see above)."""

    enable: bool = True
    enable_html_report: bool = True
    out_dir: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "ExportSettings":
        """Checked settings. Raises ConfigError for a key there is not, or a switch that is no bool."""
        known = {field.name: field.type for field in fields(cls)}
        for key, value in given.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, 1) or sorted(known)
                raise ConfigError(f"metrics_export.{key} = {value!r} does not exist; did you mean {', '.join(near)}?")
            if known[key] is bool and not isinstance(value, bool):
                raise ConfigError(f"metrics_export.{key} = {value!r} must be True or False")
        return cls(**given)


@HOOKS.register_module()
class MetricsExportHook(Hook):
    """Writes the export after training and the miss-rate pictures after evaluations. Its settings: see the module."""

    priority = "VERY_LOW"  # after all that logs

    def __init__(self) -> None:
        self.settings = ExportSettings()
        self.trained = False

    def before_run(self, runner: Any) -> None:
        self.settings = ExportSettings.of(runner.cfg.get("metrics_export") or {})
        self.trained = False

    def before_train(self, runner: Any) -> None:
        self.trained = True

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._draw(runner, runner.val_evaluator, f"epoch{runner.epoch}" if self.trained else "val")

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._draw(runner, runner.test_evaluator, "test")

    def after_run(self, runner: Any) -> None:
        if self.trained and self.settings.enable and is_main_process():
            runner.logger.info("metrics exported to %s", export(runner, self.settings))

    def _draw(self, runner: Any, evaluator: Any, when: str) -> None:
        """A picture for every metric that kept curves."""
        if not (is_main_process() and self.settings.enable):
            return
        for metric in evaluator.metrics:
            curves = {name: found for name, found in getattr(metric, "last", {}).items() if found.persons}
            if curves:
                path = Path(runner.work_dir) / "figures" / f"{metric.prefix}_fppi_{when}.png"
                save_curves(path, curves, f"{when}, protocol {metric.protocol}", _mark(runner))


def export(runner: Any, settings: ExportSettings) -> Path:
    """Write page and zip; where the zip went. Raises StorageError."""
    work_dir = Path(runner.work_dir)
    metrics, config = work_dir / "metrics.jsonl", runner.cfg.pretty_text
    if not metrics.exists():
        runner.logger.warning("%s does not exist: the export has no scalars", metrics)
    records = scalar_records(metrics) if metrics.exists() else []
    members = {"scalars.json": scalars_json(records), "scalars.csv": scalars_csv(records), "config.py": config}
    alignment = work_dir / "alignment.json"
    members["alignment.json"] = alignment.read_text(encoding="utf-8") if alignment.exists() else "[]\n"
    if settings.enable_html_report:
        page = report_html(work_dir, config, embedded=bool(_mark(runner)))
        members["report.html"] = page.encode("utf-8", "backslashreplace")
        write_atomic(work_dir / "report.html", members["report.html"])
    else:
        runner.logger.info("no HTML report: metrics_export.enable_html_report is False")
    folder = Path(settings.out_dir) if settings.out_dir else shared_folder(work_dir, "metrics_logs")
    return write_zip(folder / f"run_{runner.timestamp}.zip", members, owner_of(work_dir))


def _mark(runner: Any) -> str:
    return EMBEDDED_MARK if runner.cfg.get("embedded_world") else ""
