"""One image, one command: a grounding model with its text tower, loaded once.

`predict.py`, `app.py` and `--stage export` share it:

    grounder = Grounder.load()                        # the newest talk2car_best.pth below results/
    found = grounder.ground(image, "stop behind the red car")
    grounder.draw(image, found).save("picture.png")

A weight file says which teacher's text tower its head learned to read. The embedded one lies in the run's own folder; a
pretrained one is fetched as the run's configuration names it. A tower with other weights is refused.
"""

# H, W image height and width in pixels; h, w cells of the score map; L tokens; C text width.

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from shared import checkpoint
from shared.errors import CheckpointError, DataError, NonFiniteError, UserError
from shared.run import run_command, world_from_environment

from .boxes import to_frame_xywh
from .config import PACKAGE_ROOT, Config
from .embedded_teacher import CONFIG_NAME
from .grounding import Talk2CarModel
from .images import Normaliser, read_rgb, resize
from .lettering import printable
from .teacher import Teacher, load_teacher
from .visualization import draw_prediction, heat_of_scores
from .weights import BEST, load_grounding, newest, refuse_other

RESULTS = PACKAGE_ROOT / "results"


@dataclass(frozen=True)
class Grounding:
    """Where a command points: boxes are x, y, w, h in pixels."""

    command: str
    box_image_px: tuple[float, ...]  # of the image that was given
    box_frame_px: tuple[float, ...]  # of the annotation frame, 1600x900
    heat: np.ndarray | None  # (h, w) float32, not negative: where the model looked; None for the projection head


class Grounder:
    """A grounding model and the frozen text tower that it reads.

    Attributes: model (eval mode), teacher, path (of the weights), record (what the weight file says of itself), config
    (of the run that made it), input_hw (H, W of the model's input), text_len (tokens at most).
    """

    def __init__(self, model: Talk2CarModel, teacher: Teacher, path: Path, record: dict, config: Config):
        self.device = teacher.device
        self.model, self.teacher = model.eval().to(self.device), teacher
        self.path, self.record, self.config = path, record, config
        self.input_hw, self.text_len = tuple(record["input_hw"]), record["text_len"]
        self.mark = config.data.mark or None
        self._normalise = Normaliser(record["mean"], record["std"])

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        *,
        teacher: str | None = None,
        results: Path = RESULTS,
        device: torch.device | str = "cpu",
    ) -> "Grounder":
        """From the weight file `path`, or the newest talk2car_best.pth of all runs below `results`.

        `teacher`: a folder written by `--stage teacher`, or what `teacher.pretrained` takes (tag, file,
        `local-dir:<folder>`); None finds it by the run's record. CheckpointError: no such weights, damaged, or another
        teacher than the head was trained with.
        """
        path = path or newest(results, BEST)
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist: name a {BEST} of a finished Stage 2 with --checkpoint")
        model, record = load_grounding(path)
        config = recorded_config(path)
        tower = load_teacher(teacher_source(path, config, teacher), device)
        refuse_other(path, "teacher.sha256", record["teacher"]["sha256"], tower.sha256)
        return cls(model, tower, path, record, config)

    @torch.no_grad()
    def ground(self, image: np.ndarray, command: str) -> Grounding:
        """image (H, W, 3) uint8 RGB of any size, one command -> its box.

        DataError for an image of another form, UserError for an empty command, NonFiniteError when the model fails.
        """
        command = checked_command(command)
        pixels = self.pixels(image)[None].to(self.device)
        text = self.teacher.read([command], self.text_len)[0]
        output = self.model(pixels, text.states[None].to(self.device), token_ids=text.ids[None].to(self.device))
        box = output["boxes_cxcywh"][0].double().cpu().numpy()
        if not np.isfinite(box).all():
            raise NonFiniteError(f"{self.path} predicts a box that is not finite for {command!r}: its weights are bad")
        wh = (image.shape[1], image.shape[0])
        return Grounding(command, _rounded(box, wh), _rounded(box, self.config.stage2.frame_wh), _heat(output))

    def pixels(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> the model's input (3, H, W) float32, resized and normalised as in training."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(f"an image is (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}; convert it first")
        out = np.empty((3, *self.input_hw), np.float32)
        self._normalise(resize(image, *self.input_hw), out)
        return torch.from_numpy(out)

    def draw(self, image: np.ndarray, found: Grounding, **options) -> Image.Image:
        """The picture of an answer: the frame with the box, and beside it where the model looked."""
        return draw_prediction(
            image, found.box_image_px, None, found.command, None, self.mark, heat=found.heat, **options
        )


def _rounded(box_cxcywh: np.ndarray, wh: Sequence[int]) -> tuple[float, ...]:
    return tuple(to_frame_xywh(box_cxcywh, tuple(wh)).round(2).tolist())


def _heat(output: dict) -> np.ndarray | None:
    if output["attention"] is not None:
        return output["attention"][0].float().cpu().numpy()
    return None if output["score_map"] is None else heat_of_scores(output["score_map"][0].float().cpu().numpy())


def checked_command(command: str) -> str:
    """The command without surrounding space; UserError when nothing is left that could be read."""
    if not any(character.isalnum() for character in printable(command)):
        raise UserError(f"the command {command!r} says nothing: write what to do, such as 'stop behind the red car'")
    return command.strip()


def recorded_config(path: Path) -> Config:
    """The configuration of the run that wrote a weight file, from its manifest; CheckpointError when there is none."""
    try:
        return Config.model_validate(checkpoint.manifest(path).get("config"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "config"
        raise CheckpointError(
            f"{path}: the configuration in its manifest is not of this version ({where}: {first['msg']}); "
            "run Stage 2 again"
        ) from error


def teacher_source(path: Path, config: Config, named: str | None):
    """Where the text tower comes from (config.Teacher): `named`, else beside the weights, else as the run was told."""
    if named is not None:
        named = f"local-dir:{named}" if Path(named).is_dir() else named
        return config.teacher.model_copy(update={"pretrained": named})
    if config.teacher.train is None:
        return config.teacher
    folder = path.resolve().parent / "teacher"
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{folder} holds no teacher, and {path} was trained with the embedded one of its run: leave the file in "
            "its run's folder, or name that folder's teacher with --teacher"
        )
    return config.teacher.model_copy(update={"pretrained": f"local-dir:{folder}"})


# --- predict.py ---


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, help=f"weights of Stage 2 (default: the newest {BEST} of all runs)")
    parser.add_argument("--teacher", help="where the text tower lies: a folder, a weights file or a tag (default: as "
                        "the checkpoint's run records)")  # fmt: skip
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of all runs (default: results/)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or auto")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="predict.py", description="Ground one driving command in one image.")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE")
    parser.add_argument("--command", required=True, help="such as: 'stop behind the red car'")
    add_model_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("picture.png"), metavar="FILE.png",
                        help="the picture to write (default: picture.png)")  # fmt: skip
    args = parser.parse_args(argv)
    return run_command(lambda: predict(args))


def predict(args: argparse.Namespace) -> int:
    """Check the cheap things first, then load, ground, draw and print."""
    command = checked_command(args.command)
    if not args.image.is_file():
        raise DataError(f"--image {args.image}: there is no such file; give a PNG or JPEG file")
    if args.out.suffix.lower() != ".png":
        raise UserError(f"--out {args.out}: pictures are PNG files; name it {args.out.with_suffix('.png').name}")
    image = read_rgb(args.image)
    with world_from_environment(args.device) as world:
        grounder = Grounder.load(args.checkpoint, teacher=args.teacher, results=args.results, device=world.device)
    found = grounder.ground(image, command)
    write_png(grounder.draw(image, found), args.out)
    print(describe(grounder, found, image.shape[1::-1]))
    print(f"picture           {args.out}")
    return 0


def write_png(picture: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    checkpoint.write_atomic(path, buffer.getvalue())


def describe(grounder: Grounder, found: Grounding, image_wh: Sequence[int]) -> str:
    """The answer in words: x, y, w, h in both frames, and whose answer it is."""
    frame_wh = grounder.config.stage2.frame_wh
    lines = [
        f"command           {printable(found.command)}",
        f"model             {grounder.path}",
        f"box, {f'{image_wh[0]}x{image_wh[1]}':9s}    {_numbers(found.box_image_px)}   (x, y, w, h in its pixels)",
        f"box, {f'{frame_wh[0]}x{frame_wh[1]}':9s}    {_numbers(found.box_frame_px)}   (of the annotation frame)",
    ]
    return "\n".join(lines if grounder.mark is None else [*lines, f"note              {grounder.mark}"])


def _numbers(box: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in box)
