"""Can this teacher teach this student? The real forward of both, compared map by map.

    python verify_feature_compatibility.py                                  base 64 at 256 x 256, the defaults
    python verify_feature_compatibility.py --base_channels 16 --size 128    smaller
    python verify_feature_compatibility.py --student_base_channels 32       does not fit: says where, status 1

Status 0: all nine maps have one shape in both, depth too, and every fused map of the student answers to either ear.
Equal shapes are what feature losses need to run; they do not mean that the maps are aligned (losses.features).
"""

# B batch; maps are (B,C,H,W).

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.errors import UserError
from shared.run import run_command

from .models import ENCODER_LEVELS, LEVELS, create_binaural_attention_model, create_rgb_depth_model

MISMATCH = 1  # exit status


@dataclass(frozen=True)
class Row:
    """One map, as both models return it; None where a model does not return it."""

    name: str
    teacher: tuple[int, ...] | None
    student: tuple[int, ...] | None
    problem: str = ""

    @property
    def fits(self) -> bool:
        return not self.problem


@torch.no_grad()
def compare(teacher: nn.Module, student: nn.Module, size_hw: Sequence[int], audio_channels: int = 2) -> list[Row]:
    """Rows for depth and the nine maps, from forward passes over noise of `size_hw` = (height, width), in eval mode.

    The student is asked three times: whole, with another left ear, with another right ear; a map that stays as it was
    is not fused.
    """
    generator = torch.Generator().manual_seed(0)
    rgb, audio, other = (torch.rand(1, c, *size_hw, generator=generator) for c in (3, audio_channels, audio_channels))
    teacher.eval(), student.eval()
    theirs = _maps(teacher, rgb)
    ours = _maps(student, audio)
    changed = [_maps(student, torch.where(_ear_mask(audio, ear), other, audio)) for ear in (0, 1)]
    return [_row(name, theirs.get(name), ours.get(name), [maps.get(name) for maps in changed])
            for name in ("depth", *LEVELS)]  # fmt: skip


def _maps(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    depth, features = model(x, return_features=True)
    return {"depth": depth, **features}


def _ear_mask(audio: Tensor, ear: int) -> Tensor:
    return (torch.arange(audio.shape[1]) == ear)[None, :, None, None]


def _row(name: str, theirs: Tensor | None, ours: Tensor | None, changed: Sequence[Tensor | None]) -> Row:
    shapes = [None if x is None else tuple(x.shape) for x in (theirs, ours)]
    problem = ""
    if None in shapes:
        problem = f"missing in the {'teacher' if theirs is None else 'student'}"
    elif shapes[0] != shapes[1]:
        problem = "shapes differ"
    elif not all(x.isfinite().all() for x in (theirs, ours)):
        problem = "not finite"
    elif name in ENCODER_LEVELS:
        deaf = [ear for ear, maps in zip(("left", "right"), changed, strict=True) if torch.equal(maps, ours)]
        problem = f"deaf to the {deaf[0]} ear: not a fused map" if deaf else ""
    return Row(name, *shapes, problem)


def describe(rows: Sequence[Row]) -> str:
    """The table, and what follows from it."""
    lines = [f"{'map':6s}{'teacher':>22s}{'student':>22s}"]
    for row in rows:
        lines.append(f"{row.name:6s}{_show(row.teacher):>22s}{_show(row.student):>22s}  {row.problem or 'fits'}")
    wrong = [row.name for row in rows if not row.fits]
    lines.append(
        f"NOT ready for distillation: {', '.join(wrong)}. Use the same base channels, upsampling and size for both."
        if wrong
        else "Ready for distillation: all maps have one shape in teacher and student. (One shape is not one meaning: "
        "x1..x5 of the student are frequency by time, those of the teacher elevation by azimuth.)"
    )
    return "\n".join(lines)


def _show(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else f"[{', '.join(map(str, shape))}]"


def verify(args: argparse.Namespace) -> int:
    """Build both models as the arguments say, print the table, return the exit status."""
    if len(args.size) not in (1, 2):
        raise UserError(f"--size {args.size}: give one side, or height and width")
    size = tuple(args.size * 2)[:2]
    teacher = create_rgb_depth_model(args.base_channels, args.bilinear, output_size=size)
    student = create_binaural_attention_model(
        args.student_base_channels or args.base_channels,
        args.bilinear,
        output_size=size,
        attention_levels=args.attention_levels,
        attention=args.attention,
        shared_encoder=args.shared_encoder,
    )
    rows = compare(teacher, student, size)
    for name, model in (("teacher", teacher), ("student", student)):
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters")
    print(describe(rows))
    return 0 if all(row.fits for row in rows) else MISMATCH


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_channels", type=int, default=64)
    parser.add_argument("--student_base_channels", type=int, help="default: as --base_channels")
    parser.add_argument("--bilinear", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="side, or height and width, of both inputs")
    parser.add_argument("--attention_levels", type=int, nargs="*", default=[4, 5])
    parser.add_argument("--attention", choices=("mha", "reference"), default="mha")
    parser.add_argument("--shared_encoder", action="store_true", help="one encoder for both ears")
    args = parser.parse_args(argv)
    return run_command(lambda: verify(args))
