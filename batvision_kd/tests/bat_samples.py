"""A tiny training: its configuration, its command line in a folder of its own, and how to look at what it left."""

import json
from pathlib import Path

import torch

from batvision_kd.command import main
from batvision_kd.flags import parse
from batvision_kd.training import train

TINY = Path(__file__).parent / "bat_tiny.yaml"
TEACHER = "rgb_teacher_for_kd"


def arguments(work: Path, *more: str) -> list[str]:
    """The tiny configuration, with everything that it writes below `work`."""
    return ["--config", str(TINY), "--output_dir", str(work), "--set", f"data.embedded_dir={work / 'data'}", *more]


def command(kind: str, work: Path, *more: str) -> int:
    return main(kind, arguments(work, *more))


def trained(kind: str, work: Path, *more: str):
    """The same in this process, without exit codes: the TrainedRun."""
    request = parse(kind, arguments(work, *more), "test")
    return train(request.settings(), epoch=request.epoch, fresh=request.fresh)


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)


def rows(logs: Path, split: str) -> list[dict]:
    found = [json.loads(line) for line in (logs / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in found if row["split"] == split]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
