"""How hearing grows: the length of a recording, the tokens of a dense cross attention, the area of the student's input.

    python benchmarks/scaling.py

On noise, with random weights; one thread, CPU times. The student is the default one at base 16. Dense attention asks
every token about every other: its time grows with the square of the tokens, its memory must not, since the scores are
streamed. In the student it works at x4 and x5 alone, a 64th and a 256th of the area, so the whole grows with the area.
"""

# T samples, N tokens, C channels.

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from batvision_kd.losses import task_losses
from batvision_kd.models import attention, create_binaural_attention_model
from batvision_kd.spectrogram import SpectrogramSettings, spectrogram
from shared.peak_memory import Action
from shared.scaling import Growth, command

C, HEADS, BASE, BATCH = 64, 8, 16, 2
PAGES = (
    "the transform is linear; the kernel clears the pages of large temporaries anew at every call. By hand, with "
    "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_TOP_PAD_=536870912: 0.48 to 0.64 µs a sample from "
    "8,820 samples (0.2 s; 30 m take 7,782) to 141,120, without them 0.82 to 1.58"
)


def heard(samples: int) -> Action:
    """A recording of so many samples to both ears' spectrograms."""
    recording = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    settings = SpectrogramSettings()
    return lambda: spectrogram(recording, settings)


def attended(tokens: int) -> Action:
    """Forward and backward of dense cross attention over a square map of so many tokens."""
    torch.manual_seed(0)
    module, side = attention.CrossAttention(C, "mha", heads=HEADS, dense=True), round(tokens**0.5)
    left, right = (torch.randn(1, C, side, side, requires_grad=True) for _ in range(2))

    def work() -> None:
        sum(x.sum() for x in module(left, right)).backward()

    return work


def student_step(pixels: int) -> Action:
    """Forward, loss and backward of the student on square inputs of so many pixels."""
    torch.manual_seed(0)
    side = round(pixels**0.5)
    model = create_binaural_attention_model(BASE, output_size=None).train()
    audio, depth = torch.rand(BATCH, 2, side, side), torch.rand(BATCH, 1, side, side) * 5 + 0.5
    valid = torch.ones_like(depth, dtype=torch.bool)

    def work() -> None:
        model.zero_grad()
        task_losses(model(audio), depth, valid)["l1"].backward()

    return work


def growths() -> Sequence[Growth]:
    return [
        Growth("recording to spectrograms, by its length", "samples",
               (2_205, 4_410, 8_820, 17_640, 35_280, 70_560), heard, why=PAGES),
        Growth("dense cross attention, by the map's tokens", "tokens",
               [side * side for side in (12, 16, 24, 32, 48, 64)], attended, time_power=2.0,
               why="every token asks every other; scores are streamed, so memory stays linear"),
        Growth("the student's step, by the input's area", "pixels",
               [side * side for side in (32, 48, 64, 96, 128, 192)], student_step),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return command(growths, Path(__file__), __doc__, argv, ("torch", "numpy"))


if __name__ == "__main__":
    sys.exit(main())
