"""`python export.py --checkpoint best_model.pth`: a student as ONNX, held to PyTorch's depths. See onnx_export.py."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from shared.errors import UserError
from shared.onnx_graphs import require_extra
from shared.run import run_command

from .checkpoints import load_model
from .onnx_export import Parity, write_export
from .spectrogram import SpectrogramSettings


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="export.py", description="Export a student to ONNX.", allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth of a student")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: onnx/ beside the checkpoint")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return run_command(lambda: _execute(args))


def _execute(args: argparse.Namespace) -> int:
    require_extra()
    model, card = load_model(args.checkpoint, kind=("audio", "distillation"))
    settings = SpectrogramSettings.from_dict(card["spectrogram"])
    if settings.size is None:
        raise UserError(f"{args.checkpoint} hears spectrograms of no fixed size: the graph needs one")
    folder = args.out or args.checkpoint.parent / "onnx"
    record = write_export(model, folder, audio_shape=(settings.channel_count, *settings.size), card=card)
    parity = Parity(**record["parity"])
    print(f"wrote {folder / record['file']['name']} ({record['file']['bytes']:,} bytes); against PyTorch {parity}")
    return 0
