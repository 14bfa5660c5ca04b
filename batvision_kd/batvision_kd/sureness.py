"""The student's confidence on whole splits: calibrated on validation, checked where it was not fitted.

calibration = calibrate_on(model, val, settings)            # evaluate.py --confidence writes it to confidence.json
found = reliability_on(model, test, settings, calibration)  # does 0.8 mean that 80 % are right?
"""

# n valid pixels

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from shared.errors import DataError
from shared.storage import write_atomic

from .confidence import Calibration, calibrate, is_correct, predict_with_disagreement, reliability
from .evaluation import batches
from .spectrogram import SpectrogramSettings, swap_ears


def calibrate_on(model: nn.Module, val: Dataset, settings: SpectrogramSettings, batch_size: int = 16) -> Calibration:
    """Fit on the valid pixels of `val`. UserError with too few of them."""
    return calibrate(*_pixels(model, val, settings, batch_size))


def reliability_on(
    model: nn.Module, data: Dataset, settings: SpectrogramSettings, calibration: Calibration, batch_size: int = 16
) -> dict[str, Any]:
    """What `confidence.reliability` says of the valid pixels of `data`. ValueError without any."""
    disagreement, correct = _pixels(model, data, settings, batch_size)
    return reliability(calibration(disagreement), correct)


def _pixels(model: nn.Module, data: Dataset, settings: SpectrogramSettings, batch_size: int) -> tuple[Tensor, Tensor]:
    """Disagreement (n,) and whether the prediction is right (n,), over the valid pixels of all images."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    found = []
    for batch in batches(data, batch_size):
        depth, u = (part.cpu() for part in heard_twice(model, batch["audio"].to(device), settings))
        found.append((u[batch["valid"]], is_correct(depth, batch["depth"], batch["valid"])))
    return torch.cat([u for u, _ in found]), torch.cat([right for _, right in found])


def heard_twice(model: nn.Module, audio: Tensor, settings: SpectrogramSettings) -> tuple[Tensor, Tensor]:
    """Depth and disagreement (B,1,H,W) of inputs (B,C,H,W), see `confidence.predict_with_disagreement`."""
    return predict_with_disagreement(model, audio, lambda given: swap_ears(given, settings))


def write_calibration(path: Path, calibration: Calibration, about: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps({"about": dict(about), **calibration.to_dict()}, indent=1) + "\n")


def read_calibration(path: Path, weights_sha256: str) -> Calibration:
    """A calibration for these weights. DataError: missing, broken, or fitted for others."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        belongs, calibration = data["about"]["weights_sha256"] == weights_sha256, Calibration.from_dict(data)
    except OSError as error:
        raise DataError(
            f"cannot read the calibration {path} ({error.strerror}): evaluate.py --confidence writes it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no calibration ({error!r}): evaluate.py --confidence writes one") from None
    if not belongs:
        raise DataError(f"{path} was fitted for other weights: run evaluate.py --confidence for this checkpoint")
    return calibration
