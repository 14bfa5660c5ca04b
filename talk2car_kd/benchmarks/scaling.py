"""How training and grounding grow: regions of a Stage 1 batch, pixels of a Stage 2 frame, commands of a frame.

    python benchmarks/scaling.py

The embedded preset's models with random weights, on noise; one thread, CPU times. Stage 1 is a whole step with the
teacher's embeddings from the cache, every region with a caption of its own; Stage 2 is forward and backward. Each has
work that grows with the square of its size (a batch's similarities, the tokens' attention), which must stay unseen
beside the student's own.
"""

# N regions, B commands, L tokens, W text width, D embedding dimension.

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from stage1_step import OneBatch

from shared.config import load_config
from shared.peak_memory import Action
from shared.run import World
from shared.scaling import Growth, command
from talk2car_kd.config import DEFAULT, EMBEDDED, Config
from talk2car_kd.grounding import Talk2CarModel, build_head
from talk2car_kd.losses import DistillationLosses
from talk2car_kd.student import build_student
from talk2car_kd.teacher_cache import CachedTargets
from talk2car_kd.training import train_epoch

EMBED_DIM, TEXT_WIDTH, TOKENS, LOGIT_SCALE = 128, 128, 12, 14.0
FRAME_HW, COMMANDS = (128, 224), 4
CONFIG = load_config(Config, [DEFAULT, EMBEDDED])


def stage1_step(regions: int) -> Action:
    """A training step on so many regions."""
    torch.manual_seed(0)
    side, numbers = CONFIG.stage1.image_size, torch.arange(regions)
    student = build_student(CONFIG.student, EMBED_DIM)
    criterion = DistillationLosses(CONFIG.stage1.loss.resolved(EMBED_DIM), CONFIG.stage1.loss.temperature)
    batch = {"image": torch.randn(regions, 3, side, side), "text_id": numbers, "index": numbers, "view": 0 * numbers}
    targets = CachedTargets(torch.randn(1, regions, EMBED_DIM).half(), torch.device("cpu"))
    text_emb = torch.nn.functional.normalize(torch.randn(regions, EMBED_DIM), dim=1)
    loop = OneBatch(batch, student, criterion, CONFIG, World())
    return lambda: train_epoch(student, None, targets, text_emb, LOGIT_SCALE, criterion, loop)


def stage2_step(height: int, width: int, commands: int) -> Action:
    """Forward and backward of one frame with so many commands; the gradient goes through every cell's box and score."""
    torch.manual_seed(0)
    encoder = build_student(CONFIG.student, EMBED_DIM)
    model = Talk2CarModel(encoder, build_head(CONFIG.stage2.head, encoder.map_dim, TEXT_WIDTH)).train()
    image, text = torch.randn(1, 3, height, width), torch.randn(commands, TOKENS, TEXT_WIDTH)
    index = torch.zeros(commands, dtype=torch.long)

    def step() -> None:
        model.zero_grad()
        found = model(image, text, image_index=index)
        (found["score_map"].square().mean() + found["cell_boxes"].mean()).backward()

    return step


def growths() -> Sequence[Growth]:
    sides = (64, 96, 128, 192, 256, 384)
    return [
        Growth("Stage 1's step, by the regions of its batch", "regions", (8, 16, 32, 64, 128, 256), stage1_step),
        Growth("Stage 2 forward and backward, by a frame's area", "pixels", [side * side for side in sides],
               lambda pixels: stage2_step(round(pixels**0.5), round(pixels**0.5), COMMANDS)),
        Growth("Stage 2 forward and backward, by a frame's commands", "commands", (1, 2, 4, 8, 16, 32, 64),
               lambda commands: stage2_step(*FRAME_HW, commands)),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return command(growths, Path(__file__), __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
