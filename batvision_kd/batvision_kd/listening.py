"""Depth from a recording: `python listen.py --checkpoint checkpoints/<exp>/best_model.pth echo.wav`.

WAV files, or raw samples on stdin (`-`), two channels interleaved, left first, cut into windows of one echo each:

    arecord -f S16_LE -c 2 -r 44100 | python listen.py --checkpoint best_model.pth --format s16le -

One line an echo: range of the predicted depth, and the time that preparing and predicting took. What the model was
trained to hear (rate, range, spectrogram) comes from its manifest; a recording of another rate is refused.
"""

# N samples in an echo, H x W pixels

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from shared.checkpoint import manifest
from shared.errors import DataError, UserError
from shared.run import run_command
from shared.storage import storage_error

from .audio import read_wav
from .checkpoints import load_model
from .spectrogram import SpectrogramSettings, echo_input
from .sureness import heard_twice, read_calibration

STDIN = "-"
FORMATS = {"s16le": ("<i2", 2**15), "s32le": ("<i4", 2**31), "f32le": ("<f4", 1)}  # dtype, full scale
WINDOW_FRAMES = 20_000  # of one echo, as BatVision V2 records it
CHANNELS = 2


@dataclass(frozen=True, eq=False)
class Heard:
    """A prediction. depth_m: (H,W) float32; confidence: (H,W) float32 in 0..1 if asked for; times in milliseconds."""

    name: str
    depth_m: np.ndarray
    confidence: np.ndarray | None
    prepare_ms: float
    predict_ms: float

    def __str__(self) -> str:
        low, middle, high = np.quantile(self.depth_m, [0.02, 0.5, 0.98])
        times = f"prepared in {self.prepare_ms:.1f} ms, predicted in {self.predict_ms:.1f} ms"
        sure = "" if self.confidence is None else f", mean confidence {self.confidence.mean():.2f}"
        return f"{self.name}: depth {low:.2f} to {high:.2f} m, median {middle:.2f} m{sure}; {times}"


class Listener:
    """A trained student with what it was trained to hear."""

    def __init__(self, checkpoint: Path, device: str = "cpu", confidence: Path | None = None):
        """confidence: confidence.json of `evaluate.py --confidence`; it costs a second pass with the ears exchanged.

        Raises CheckpointError: missing, damaged, or not a student; DataError: a calibration of other weights.
        """
        self._calibration = confidence and read_calibration(confidence, manifest(checkpoint)["sha256"])
        self._model, card = load_model(checkpoint, kind=("audio", "distillation"), map_location=device)
        self.settings = SpectrogramSettings.from_dict(card["spectrogram"])
        self.max_depth_m, self.mark, self._device = card["max_depth_m"], card.get("mark", ""), device

    @torch.no_grad()
    def hear(self, samples: np.ndarray, rate: int, name: str) -> Heard:
        """The depth that an echo (2,N) in -1..1 tells. Raises DataError for another rate or too few samples."""
        if samples.shape[1] <= self.settings.n_fft:
            raise DataError(f"{name} has {samples.shape[1]} samples, an echo needs more than {self.settings.n_fft}: "
                            "record longer")  # fmt: skip
        started = time.perf_counter()
        audio = echo_input(samples, rate, self.settings, self.max_depth_m, name)[None].to(self._device)
        prepared = time.perf_counter()
        depth, confidence = self._predict(audio)
        done = time.perf_counter()
        return Heard(name, depth, confidence, 1000 * (prepared - started), 1000 * (done - prepared))

    def _predict(self, audio: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        if self._calibration is None:
            return self._model(audio)[0, 0].float().cpu().numpy(), None
        depth, disagreement = heard_twice(self._model, audio, self.settings)
        return depth[0, 0].float().cpu().numpy(), self._calibration(disagreement)[0, 0].cpu().numpy()


def read_windows(stream: BinaryIO, sample_format: str, frames: int) -> Iterator[np.ndarray]:
    """Echoes (2,N) float32 in -1..1 from interleaved raw samples, as they arrive; the last one may be shorter.

    Raises DataError when the stream ends inside a frame, or is empty.
    """
    dtype, full_scale = FORMATS[sample_format]
    frame_bytes, count = CHANNELS * np.dtype(dtype).itemsize, 0
    while data := _read_all(stream, frames * frame_bytes):
        count += 1
        if len(data) % frame_bytes:
            raise DataError(
                f"stdin ended inside a frame ({len(data) % frame_bytes} bytes left over): {sample_format} with "
                f"{CHANNELS} channels has {frame_bytes} bytes a frame; is it mono, or another format?"
            )
        values = np.frombuffer(data, dtype).astype(np.float32) / np.float32(full_scale)
        if not np.isfinite(values).all():
            raise DataError(f"echo {count} on stdin holds NaN or infinite samples: is the format {sample_format}?")
        yield values.reshape(-1, CHANNELS).T
    if not count:
        raise DataError("stdin is empty: pipe a recording into this command")


def _read_all(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the stream (a pipe gives what it has)."""
    parts: list[bytes] = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def save(heard: Heard, folder: Path, mark: str) -> list[Path]:
    """Write <name>_depth.npy (metres, float32) and .png, and <name>_confidence.npy, into the folder."""
    stem = folder / f"{Path(heard.name).stem}_depth"
    low, high = np.quantile(heard.depth_m, [0.02, 0.98])
    shown = colormaps["viridis"](np.clip((heard.depth_m - low) / max(high - low, 0.1), 0, 1))[..., :3]
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".npy", ".png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(paths[0], heard.depth_m)
        if heard.confidence is not None:
            paths.append(stem.with_name(f"{Path(heard.name).stem}_confidence.npy"))
            np.save(paths[-1], heard.confidence)
        picture = Image.fromarray((255 * shown).astype(np.uint8))
        text = {"Title": f"{low:.2f} m (dark) to {high:.2f} m (bright) {mark}".strip()}
        picture.save(paths[1], pnginfo=_png_text(text))
    except OSError as error:
        raise storage_error(folder, error) from error
    return paths


def _png_text(entries: dict[str, str]):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in entries.items():
        info.add_text(name, text)
    return info


# --- the command ------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="listen.py", description="Depth from binaural echoes.", allow_abbrev=False)
    parser.add_argument("recordings", nargs="+", metavar="FILE", help="stereo WAV files, or - for raw samples on stdin")
    parser.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth of a student")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write <name>_depth.npy (metres) and .png there")
    parser.add_argument(
        "--confidence", type=Path, metavar="JSON", help="of evaluate.py --confidence: also write how sure"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--format", choices=FORMATS, default="s16le", help="of stdin (default: %(default)s)")
    parser.add_argument("--rate", type=int, metavar="HZ", help="of stdin (default: what the model was trained with)")
    window = "samples of one echo on stdin, a channel (default: %(default)s)"
    parser.add_argument("--window_frames", type=int, default=WINDOW_FRAMES, metavar="N", help=window)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, stdin: BinaryIO | None = None) -> int:
    args = parse(argv)
    return run_command(lambda: _execute(args, stdin))


def _execute(args: argparse.Namespace, stdin: BinaryIO | None) -> int:
    listener = Listener(args.checkpoint, args.device, args.confidence)
    if args.window_frames <= listener.settings.n_fft:
        raise UserError(
            f"--window_frames {args.window_frames}: an echo needs more than {listener.settings.n_fft} samples"
        )
    if listener.mark:
        print(f"note: the model was trained on {listener.mark}", flush=True)
    for name, samples, rate in _echoes(args, listener, stdin):
        heard = listener.hear(samples, rate, name)
        print(heard, flush=True)
        if args.out:
            save(heard, args.out, listener.mark)
    return 0


def _echoes(
    args: argparse.Namespace, listener: Listener, stdin: BinaryIO | None
) -> Iterator[tuple[str, np.ndarray, int]]:
    for name in args.recordings:
        if name != STDIN:
            with warnings.catch_warnings():
                warnings.showwarning = _say_warning
                samples, rate = read_wav(name)
            yield name, samples, rate
            continue
        rate = args.rate or listener.settings.rate_hz
        stream = stdin or sys.stdin.buffer
        for number, samples in enumerate(read_windows(stream, args.format, args.window_frames), 1):
            if samples.shape[1] <= listener.settings.n_fft and number > 1:
                print(f"note: the last {samples.shape[1]} samples on stdin are too few for an echo", file=sys.stderr)
                continue
            yield f"stdin_{number:04d}", samples, rate


def _say_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
