"""The expensive half of a comparison: training a piece, judging it on a split, drawing it. See experiments.py.

    bench = Bench(plan, output_dir)
    best = bench.train(settings); table = bench.judge(best, "test", "audio", control="shuffled")

It opens the data once, with pictures, for all arms; every piece trains on the same world or root.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from shared import checkpoint

from .checkpoints import load_model
from .config import Settings
from .controls import constant_maps, constant_predictor, heard_wrongly
from .data_source import Sources, open_data
from .evaluation import ImageTable, predictor, score
from .experiment_plan import Piece, Plan
from .holes import HolesOnly
from .pictures import View, rows_of
from .training import train

SHOWN = 6  # images in the report


@dataclass(frozen=True)
class Bench:
    """Trains and judges the pieces of one plan below one output folder."""

    plan: Plan
    output_dir: Path

    @cached_property
    def settings(self) -> Settings:
        """Those of the first taught arm: its data holds pictures and echoes."""
        return self.plan.settings_of(Piece(self.plan.taught[0], self.plan.seeds[0]), self.output_dir)

    @cached_property
    def sources(self) -> Sources:
        return open_data(self.settings)

    @cached_property
    def constants(self) -> dict[str, Tensor]:
        """Constant maps of the training split, without its augmentation."""
        plain = self.sources.train.of_records(self.sources.train.records)
        plain.augment = False
        return constant_maps(plain)

    @property
    def mark(self) -> str:
        return self.sources.mark

    @property
    def fingerprint(self) -> str:
        return self.sources.fingerprint

    def train(self, settings: Settings) -> Path:
        """The best weights of a training; a cut one continues, a finished one is verified by its own folder."""
        return train(settings).best

    def sha256(self, best: Path) -> str:
        """Of a checkpoint, verified. CheckpointError: missing or damaged."""
        checkpoint.load(best)
        return checkpoint.manifest(best)["sha256"]

    def judge(self, best: Path, split: str, source: str, control: str | None = None) -> ImageTable:
        """Scores of a trained piece. source: "rgb" or "audio"; control: see controls, or "holes" (embedded only)."""
        model, _ = load_model(best, expect={"max_depth_m": self.settings.data.depth_limit_m})
        data: Dataset = getattr(self.sources, split)
        if control == "holes":
            data = HolesOnly(data)
        elif control is not None:
            data = heard_wrongly(data, control, self.sources.spectrogram)
        return self._score(predictor(model, source, self._device), data)

    def judge_constant(self, name: str, split: str) -> ImageTable:
        """Scores of a constant map of the training split."""
        return self._score(constant_predictor(self.constants[name]), getattr(self.sources, split))

    def _score(self, predict, data: Dataset) -> ImageTable:
        return score(predict, data, max_depth_m=self.settings.data.depth_limit_m, batch_size=self.plan.batch_size,
                     workers=self.settings.training.num_workers)  # fmt: skip

    @property
    def _device(self) -> torch.device:
        name = self.settings.training.device
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)

    def draw(self, trained: Mapping[str, tuple[Path, str]], path: Path) -> Path:
        """Write a picture of evenly spread test images; trained: {title: (best weights, source)}."""
        test = self.sources.test
        chosen = torch.linspace(0, len(test) - 1, min(SHOWN, len(test))).round().int().tolist()
        models = {title: (load_model(best)[0], source) for title, (best, source) in trained.items()}
        views = [self._view(test[index], models) for index in chosen]
        path.parent.mkdir(parents=True, exist_ok=True)
        rows_of(views, mark=self.mark).savefig(path, dpi=110)
        return path

    def _view(self, item: Mapping, models: Mapping[str, tuple[nn.Module, str]]) -> View:
        with torch.no_grad():
            depths = {title: model(item[source][None])[0] for title, (model, source) in models.items()}
        return View(item["id"], item, depths)
