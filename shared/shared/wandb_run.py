"""Weights & Biases beside metrics.jsonl: optional, and never a reason for a run to fail.

Without the package, or without its server, a warning is given and metrics.jsonl, which holds the same records, is all
there is; without a login the record is kept in the run's folder, for `wandb sync`. A resumed run begins a new record of
the same name.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("shared.run")
LOCAL = "metrics.jsonl in the run's folder holds the same records"


def start_wandb(folder: Path, *, project: str, name: str, config: Mapping[str, Any]) -> Any | None:
    """A started wandb run, or None with a warning that says why."""
    try:
        import wandb
    except ImportError:
        log.warning("Weights & Biases was asked for and wandb is not installed (pip install wandb); %s", LOCAL)
        return None
    mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in(wandb) else "offline")
    if mode == "offline":
        log.warning("no login for Weights & Biases (wandb login): its record stays in %s/wandb; %s", folder, LOCAL)
    try:
        return wandb.init(project=project, name=name, dir=str(folder), mode=mode, config=dict(config), resume="allow")
    except (wandb.errors.Error, OSError) as error:
        log.warning("Weights & Biases cannot be reached (%s); %s", error, LOCAL)
        return None


def _logged_in(wandb: Any) -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or getattr(getattr(wandb, "api", None), "api_key", None))
