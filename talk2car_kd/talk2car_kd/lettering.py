"""Text for pictures: one bounded line without hidden characters, broken into lines that fit, in one font everywhere."""

import re
import unicodedata
from pathlib import Path

import matplotlib
from PIL import ImageFont

MAX_CHARACTERS = 400


def printable(text: str) -> str:
    """One line of bounded length, without control, format and private characters (line breaks, direction marks)."""
    spaced = "".join(" " if c.isspace() else c for c in text[: 2 * MAX_CHARACTERS])
    kept = "".join(c for c in spaced if c == " " or not unicodedata.category(c).startswith("C"))
    return " ".join(kept.split())[:MAX_CHARACTERS]


def wrapped(text: str, font: ImageFont.FreeTypeFont, width_px: float, lines: int) -> list[str]:
    """Break text into at most `lines` lines of `width_px`, also inside a word too long for a line; "…" ends a cut."""
    done, line = [], ""
    for piece in re.findall(r"\S+\s*", text):
        while font.getlength((line + piece).rstrip()) > width_px and len(done) < lines:
            if not line:  # the word alone is too long
                fitting = max(1, sum(font.getlength(piece[: n + 1]) <= width_px for n in range(len(piece))))
                line, piece = piece[:fitting], piece[fitting:]
            done, line = [*done, line.rstrip()], ""
        line += piece
    done = [*done, line.rstrip()] if line.strip() else done
    if len(done) > lines:
        last = done[lines - 1]
        while last and font.getlength(last + " …") > width_px:
            last = last[:-1]
        done = [*done[: lines - 1], last.rstrip() + " …"]
    return done


def dejavu(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: Latin, Greek, Cyrillic, Arabic; the same on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
