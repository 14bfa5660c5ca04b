"""What several test files of this member share: a finished run without its training."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from shared.config import load_config
from talk2car_kd import embedded_teacher
from talk2car_kd.config import DEFAULT, EMBEDDED, Config
from talk2car_kd.grounding import Talk2CarModel, build_head
from talk2car_kd.student import build_student
from talk2car_kd.teacher import Teacher, load_teacher
from talk2car_kd.weights import BEST, save_weights

TINY = Path(__file__).parent / "tiny.yaml"


@dataclass(frozen=True)
class TinyRun:
    """A results folder with one run that holds a tiny embedded teacher and talk2car_best.pth, both untrained."""

    results: Path
    folder: Path
    checkpoint: Path
    config: Config
    model: Talk2CarModel
    teacher: Teacher


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> TinyRun:
    results = tmp_path_factory.mktemp("results")
    folder = results / "tiny"
    config = load_config(Config, [DEFAULT, EMBEDDED, TINY], [f"data.embedded_dir={results.parent}/no-world"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        embedded_teacher.save_folder(
            embedded_teacher.new_model(config.teacher.train), config.teacher.train, folder / "teacher"
        )
        teacher = load_teacher(config.teacher.model_copy(update={"pretrained": f"local-dir:{folder / 'teacher'}"}))
        encoder = build_student(config.student, teacher.embed_dim)
        model = Talk2CarModel(encoder, build_head(config.stage2.head, encoder.map_dim, teacher.text_width)).eval()
        for parameter in model.parameters():  # away from the start values, under which text and image hardly matter
            if parameter.dim() > 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    save_weights(
        folder / BEST,
        model,
        config.student,
        teacher,
        step=1,
        config=config.model_dump(mode="json"),
        head=config.stage2.head.model_dump(mode="json"),
        input_hw=list(config.stage2.input_hw),
        text_len=config.stage2.text_len,
        epoch=1,
        val_ap50=0.0,
    )
    return TinyRun(results, folder, folder / BEST, config, model, teacher)
