"""Where the halves of a pair lie: LLVIP's split folders, KAIST's sets (nested or flat names). Plain Python.

LLVIP   visible/{train,test}/NNNNNN.jpg  infrared/{train,test}/NNNNNN.jpg   Annotations/NNNNNN.xml
KAIST   images/setXX/VYYY/{visible,lwir}/IZZZZZ.png                          or setXX_VYYY_IZZZZZ_{visible,lwir}.png
        <annotations>/setXX/VYYY/IZZZZZ.{xml,txt}                            or setXX_VYYY_IZZZZZ.{xml,txt}
        <paired annotations>/setXX/VYYY/{visible,lwir}/IZZZZZ.txt            or setXX_VYYY_IZZZZZ_{visible,lwir}.txt
        imageSets/NAME.txt: a frame a line, set06/V000/I00019 or set06_V000_I00019
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
FRAME = re.compile(r"(set\d\d)[/_](V\d\d\d)[/_](?:(?:visible|lwir)[/_])?(I\d{5})")
HALVES = {"visible": "visible", "infrared": "lwir"}  # KAIST's folder names


@dataclass(frozen=True)
class Pair:
    """One frame: its name, the number metrics know it by, its two images."""

    name: str
    number: int
    visible: Path
    infrared: Path


@dataclass
class Pairs:
    """The frames of a split in their order, and what is wrong with the others (missing halves, doubles)."""

    found: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Folders:
    """Looks files up by name without their ending; each folder is listed once."""

    def __init__(self, endings: tuple[str, ...] = IMAGE_ENDINGS):
        self.endings = endings
        self.listed: dict[Path, dict[str, list[Path]]] = {}

    def files(self, folder: Path) -> dict[str, list[Path]]:
        """stem -> files with that stem, in order of their names."""
        if folder not in self.listed:
            self.listed[folder] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix.lower() in self.endings:
                    self.listed[folder].setdefault(path.stem, []).append(path)
        return self.listed[folder]

    def find(self, *candidates: Path) -> Path | None:
        """The file of the first candidate (a path without ending) that exists."""
        for candidate in candidates:
            files = self.files(candidate.parent).get(candidate.name)
            if files:
                return files[0]
        return None


def missing_half(have: Path, lacks: Path) -> str:
    """The sentence for a pair of which one half is missing."""
    return f"{have} has no partner: {lacks} is missing; extract it again, or leave out both."


# ---------------------------------------------------------------- LLVIP


def llvip_pairs(root: Path, split: str, visible_dir: str = "visible", infrared_dir: str = "infrared") -> Pairs:
    """The pairs of an LLVIP split: the folder is the split, equal names are a pair.

    Raises:
        DataError: a folder is missing or holds no image.
    """
    folders = Folders()
    halves = [root / half / split for half in (visible_dir, infrared_dir)]
    visible, infrared = (_listed(folders, folder) for folder in halves)
    pairs = Pairs()
    names = sorted(set(visible) | set(infrared))
    for position, name in enumerate(names):
        doubles = [paths for paths in (visible.get(name, []), infrared.get(name, [])) if len(paths) > 1]
        pairs.problems += [f"{a} and {b} are both frame {name}: remove one." for a, b, *_ in doubles]
        if name in visible and name in infrared:
            pairs.found.append(Pair(name, position, visible[name][0], infrared[name][0]))
        elif name in visible:
            pairs.problems.append(missing_half(visible[name][0], halves[1] / visible[name][0].name))
        else:
            pairs.problems.append(missing_half(infrared[name][0], halves[0] / infrared[name][0].name))
    return _numbered_by_name(pairs)


def _listed(folders: Folders, folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: an LLVIP root has visible/ and infrared/ with train/ and test/ in each.")
    files = folders.files(folder)
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(IMAGE_ENDINGS)}): extract the data again.")
    return files


def _numbered_by_name(pairs: Pairs) -> Pairs:
    """Frames named 010001 keep that number as their id; other names are numbered by their order."""
    numbers = [int(pair.name) for pair in pairs.found if pair.name.isdecimal()]
    if len(set(numbers)) == len(pairs.found):
        pairs.found = [Pair(pair.name, int(pair.name), pair.visible, pair.infrared) for pair in pairs.found]
    return pairs


# ---------------------------------------------------------------- KAIST


def frame_name(text: str) -> str | None:
    """'set06/V000/I00019' of any spelling of a frame (nested or flat, with a modality or an ending); else None."""
    match = FRAME.search(text)
    return "/".join(match.groups()) if match else None


def read_frame_list(path: Path) -> list[str]:
    """The frames of an imageSets file, in its order.

    Raises:
        DataError: missing, empty, a line that names no frame, a frame twice.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: a KAIST split is a list of frames, imageSets/test-all-20.txt for one.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    frames: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        name = frame_name(line)
        if name is None:
            raise DataError(f"{path}, line {number}: {line!r} names no frame (set06/V000/I00019): correct the line.")
        if name in frames:
            raise DataError(f"{path}, line {number}: frame {name} stands in line {frames[name]} already: remove one.")
        frames[name] = number
    if not frames:
        raise DataError(f"{path} is empty: extract imageSets again.")
    return list(frames)


def kaist_pairs(
    root: Path, frames: Sequence[str], image_dir: str = "images", numbers: Sequence[int] | None = None
) -> Pairs:
    """The pairs of these frames; a frame's number is its position in the list, as in the benchmark's annotations,
    unless `numbers` gives each its own.

    Raises:
        DataError: the image folder is missing.
    """
    folder = root / image_dir
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: a KAIST root has {image_dir}/setXX/VYYY/visible and lwir.")
    folders, pairs = Folders(), Pairs()
    for number, frame in zip(numbers or range(len(frames)), frames, strict=True):
        visible, infrared = (folders.find(*_stems(folder, frame, half)) for half in HALVES.values())
        if visible and infrared:
            pairs.found.append(Pair(frame, number, visible, infrared))
        else:
            pairs.problems.append(_absent(folder, frame, visible, infrared))
    return pairs


def _absent(folder: Path, frame: str, visible: Path | None, infrared: Path | None) -> str:
    expected = [_stems(folder, frame, half)[0] for half in HALVES.values()]
    if visible:
        return missing_half(visible, expected[1].with_suffix(visible.suffix))
    if infrared:
        return missing_half(infrared, expected[0].with_suffix(infrared.suffix))
    return f"{expected[0]}.* and {expected[1]}.* are both missing: extract the frame, or take it off the list."


def _stems(folder: Path, frame: str, half: str) -> list[Path]:
    """Paths without ending where a half of a frame may lie."""
    group, video, image = frame.split("/")
    return [folder / group / video / half / image, folder / f"{group}_{video}_{image}_{half}"]


def kaist_label_files(folder: Path, frame: str, folders: Folders, paired: bool) -> list[Path]:
    """The annotation files of a frame: one, or one a modality. Where a file is missing, the path it should have."""
    halves = list(HALVES.values()) if paired else [None]
    return [_label_file(folder, frame, folders, half) for half in halves]


def _label_file(folder: Path, frame: str, folders: Folders, half: str | None) -> Path:
    group, video, image = frame.split("/")
    nested = folder / group / video / (f"{half}/{image}" if half else image)
    flat = folder / (f"{group}_{video}_{image}_{half}" if half else f"{group}_{video}_{image}")
    return folders.find(nested, flat) or nested.with_suffix(folders.endings[0])
