"""Whether the two images of a pair are whole, 8-bit, not blank, and of one size."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from shared.errors import DataError

MODES = ("L", "RGB")  # 8 bits, one or three channels


def pair_problems(visible: Path, infrared: Path, stated: Mapping[Path, tuple[int, int]]) -> Iterator[str]:
    """What is wrong with a pair's images, one sentence each.

    Args:
        stated: (height, width) by the annotation files that state one.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    for path in (visible, infrared):
        try:
            sizes[path] = read_size(path)
        except DataError as error:
            yield str(error)
    if len(set(sizes.values())) == 2:
        yield (
            f"{visible} is {_shown(sizes[visible])}, its partner {infrared} is {_shown(sizes[infrared])}: halves of a "
            "pair need one size; register and resize them."
        )
    for path, size in stated.items():
        if visible in sizes and size != sizes[visible]:
            yield f"{path} is for {_shown(size)}, {visible} is {_shown(sizes[visible])}: use images of its own size."


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image that was decoded to its last pixel.

    Raises:
        DataError: not a whole image, not 8 bits in one or three channels, or every pixel has one value.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: extract it again.")
    try:
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        raise DataError(f"{path} is no image{_foreign(path)}: extract it again.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is no whole image ({error}): extract it again.") from error
    if image.mode not in MODES:
        raise DataError(
            f"{path} is of Pillow mode {image.mode}, not {' or '.join(MODES)} (8 bits, 1 or 3 channels): convert it."
        )
    ranges = image.getextrema()
    if all(low == high for low, high in ([ranges] if image.mode == "L" else ranges)):
        raise DataError(f"{path} is blank, every pixel is {image.getpixel((0, 0))}: extract it again.")
    return image.height, image.width


def _foreign(path: Path) -> str:
    head = path.read_bytes()[:200].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return " but an HTML page"
    return " but a git-LFS pointer" if head.startswith(b"version https://git-lfs") else ""


def _shown(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"
