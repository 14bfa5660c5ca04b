"""Weights & Biases beside metrics.jsonl: optional, and never a reason for a run to fail.

Without the package, or without its server, a warning is given and metrics.jsonl (which holds the same records) is all
there is; without a login the record is kept offline, for `wandb sync`.
"""

import logging
import os
from pathlib import Path
from typing import Any

from ..config import Settings

log = logging.getLogger("shared.run")
LOCAL = "metrics.jsonl in the run's folder holds the same records"


def start_wandb(settings: Settings, folder: Path) -> Any | None:
    """A wandb run with the configured project and the experiment's name, or None, with a warning why."""
    training = settings.training
    if not training.use_wandb:
        return None
    try:
        import wandb
    except ImportError:
        log.warning("--use_wandb was given and wandb is not installed (pip install wandb); %s", LOCAL)
        return None
    mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in(wandb) else "offline")
    if mode == "offline":
        log.warning("no login for Weights & Biases (wandb login): its record stays in %s/wandb; %s", folder, LOCAL)
    try:
        return wandb.init(project=training.wandb_project, name=settings.name, dir=str(folder), mode=mode,
                          config=settings.model_dump(mode="json"), resume="allow")  # fmt: skip
    except (wandb.errors.Error, OSError) as error:
        log.warning("Weights & Biases cannot be reached (%s); %s", error, LOCAL)
        return None


def _logged_in(wandb: Any) -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or getattr(getattr(wandb, "api", None), "api_key", None))
