"""A bench without networks: pieces "train" at once, and their scores are planted, so that a test knows what is true."""

import hashlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from batvision_kd.evaluation import ImageTable
from batvision_kd.experiment_plan import Piece, Plan
from batvision_kd.intervals import Scenes
from batvision_kd.metrics import BANDS_M, METRICS
from shared.errors import UserError
from shared.storage import write_atomic

ROOMS, PER_ROOM, LOCATIONS = 8, 3, 3
IMAGES = LOCATIONS * ROOMS * PER_ROOM
ARMS = {
    "rgb": {"kind": "rgb", "title": "RGB teacher"},
    "audio": {"kind": "audio", "title": "audio alone"},
    "kd_depth": {"kind": "distillation", "title": "KD(depth)"},
    "kd_full": {"kind": "distillation", "title": "KD(depth + features)"},
    "kd_adaptive": {"kind": "distillation", "title": "KD(adaptive)"},
}
LEVELS = {"rgb": 0.5, "audio": 1.0, "kd_depth": 1.0, "kd_full": 1.0, "kd_adaptive": 1.0, "constant": 1.4}
CONTROL_COST = {"shuffled": 0.5, "swapped": 0.3, "silence": 0.6, "one_ear": 0.1}


def plan(**changes) -> Plan:
    given = {"name": "planted", "seeds": (0, 1, 2), "settings": {}, "arms": ARMS, "chosen": "kd_full"}
    return Plan(**{**given, **changes})


def planted_table(error_m: float, tag: str, noise_m: float = 0.05) -> ImageTable:
    """Images whose RMSE is hard-room + error; the rooms' difficulty is the same for every table, the noise is not."""
    hard = np.repeat(np.random.default_rng(7).uniform(0, 3, LOCATIONS * ROOMS), PER_ROOM)
    noise = np.random.default_rng(zlib.crc32(tag.encode())).normal(0, noise_m, IMAGES)
    values = hard + error_m + noise
    columns = dict.fromkeys(METRICS, values) | {"pixels": np.full(IMAGES, 100.0), "counted": np.ones(IMAGES, bool)}
    places = np.arange(IMAGES) // (ROOMS * PER_ROOM)
    rooms = tuple(f"room{n // PER_ROOM}" for n in range(IMAGES))
    protocols = dict.fromkeys(("strict", "min05", "official"), columns)
    scenes = Scenes(rooms, tuple(f"place{p}" for p in places))
    return ImageTable(tuple(map(str, range(IMAGES))), scenes, protocols, dict.fromkeys(BANDS_M, columns))


@dataclass
class PlantedBench:
    """levels: RMSE of each arm; of_size: added at a number of training samples. Counts what it is asked to do."""

    plan: Plan
    levels: dict[str, float] = field(default_factory=lambda: dict(LEVELS))
    of_size: dict[tuple[str, int], float] = field(default_factory=dict)
    mark: str = "planted scores: no result"
    fingerprint: str = "abc"
    trainings: list[str] = field(default_factory=list)
    judged: list[tuple[str, str, str | None]] = field(default_factory=list)
    stop_after: int | None = None

    def train(self, settings) -> Path:
        best = settings.folder("checkpoints") / "best_model.pth"
        if not best.exists():
            if self.stop_after is not None and len(self.trainings) >= self.stop_after:
                raise UserError("cut here")
            best.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(best, f"{settings.kind} {settings.training.seed}")
            self.trainings.append(settings.name)
        return best

    def sha256(self, best: Path) -> str:
        return hashlib.sha256(best.read_bytes()).hexdigest()

    def judge(self, best: Path, split: str, source: str, control: str | None = None) -> ImageTable:
        name = best.parent.name.removeprefix(f"{self.plan.name}-")
        self.judged.append((name, split, control))
        arm, *size = name.split("-")[:-1]
        error = self.levels[arm] + CONTROL_COST.get(control, 0.0) * (source == "audio")
        error += self.of_size.get((arm, int(size[0][1:])), 0.0) if size else 0.0
        return planted_table(error, f"{name} {split} {control}")

    def judge_constant(self, name: str, split: str) -> ImageTable:
        self.judged.append((f"constant-{name}", split, None))
        return planted_table(
            self.levels["constant"] + {"mean": 0.1, "median": 0.0, "log_mean": 0.2}[name], name + split
        )

    def draw(self, trained, path: Path) -> Path:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1))
        figure.savefig(path)
        return path


def names(pieces: list[Piece]) -> list[str]:
    return [piece.name for piece in pieces]
