"""Talk2Car on disk: where the files lie, what may be wrong with them, and the commands they hold.

    ROOT/commands/{train,val,test}_commands.json    (also ROOT/data/commands/, or ROOT itself)
    ROOT/images/<t2c_img>                           (also ROOT/imgs/, ROOT/data/images/)
    ROOT/tags.json                                  optional: {command_token: {"cue": ..., ...}}, notes for analysis

A command file is `{"commands": [...], "scene_tokens": [...]}` or the bare list. Boxes `2d_box` are [x, y, w, h] in
pixels of the 1600x900 annotation frame, whatever size the image files have; the test split may lack them. Where no val
file is given, whole scenes of the train file serve as val.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import DataError
from talk2car_kd.records import (
    box_problem,
    clip_box,
    header_problem,
    missing_files,
    missing_message,
    name_problem,
    read_json,
    refuse,
    repeated,
)

SPLITS = ("train", "val", "test")
FRAME_WH = (1600, 900)
VAL_SCENE_SHARE = 0.12  # of the train file's scenes where no val file is given; the official val split has 1163 of 9512
ASPECT_TOLERANCE = 0.03  # an image may be stored at another size, not in another shape
COMMAND_FOLDERS = ("commands", "data/commands", ".")
IMAGE_FOLDERS = ("images", "imgs", "data/images")

# Read by this package; the release has four more (translation, size, rotation, box_token).
WORDS = ("command", "command_token", "sample_token", "scene_token", "t2c_img")

EXPECTED = """expected layout:
  ROOT/commands/{train,val,test}_commands.json   (8349, 1163 and 2447 commands)
  ROOT/images/<t2c_img>                          (9217 frames; imgs.zip of Talk2CarSlim, its folder renamed)
to get it: https://github.com/talk2car/Talk2Car, section "Talk2CarSlim"; nuScenes itself is not needed"""
GET_IMAGES = "unpack imgs.zip of Talk2CarSlim into ROOT/images, or set data.allow_missing to drop these commands"


@dataclass(frozen=True)
class Talk2CarLayout:
    """A Talk2Car root: the command file of each split that has one, the image folder, the tags."""

    root: Path
    commands: Mapping[str, Path]
    images: Path
    tags: Path | None

    @property
    def val_from_train(self) -> bool:
        """Whether the val split is made of scenes of the train file."""
        return "val" not in self.commands and "train" in self.commands


@dataclass(frozen=True)
class Command:
    """One command about one frame, and the object it refers to."""

    command_token: str
    text: str
    image_path: Path
    sample_token: str  # the frame: several commands share it, each with an image file of its own
    scene_token: str
    box_xywh_px: tuple[float, float, float, float] | None  # of the annotation frame; None without ground truth
    class_name: str | None  # nuScenes category, e.g. "vehicle.car"
    tags: Mapping[str, object] = field(default_factory=dict)


def find_talk2car(root: Path) -> Talk2CarLayout:
    """The layout of a Talk2Car root. DataError listing what was looked for if there is no command file."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; correct data.talk2car_root\n{EXPECTED}")
    commands = {split: path for split in SPLITS if (path := _first_file(root, f"{split}_commands.json"))}
    if not commands:
        tried = ", ".join(str(root / folder / "*_commands.json") for folder in COMMAND_FOLDERS)
        raise DataError(f"{root}: no Talk2Car command file (looked for {tried})\n{EXPECTED}")
    folders = [root / folder for folder in IMAGE_FOLDERS]
    images = next((folder for folder in folders if folder.is_dir()), folders[0])
    return Talk2CarLayout(root, commands, images, _first_file(root, "tags.json"))


def read_commands(
    layout: Talk2CarLayout, split: str, *, frame_wh: tuple[int, int] = FRAME_WH, whole_file: bool = False
) -> list[Command]:
    """The commands of a split in the file's order, whether or not their images are there.

    `whole_file`: of a train file without a val file beside it, also the scenes that serve as val.
    DataError: no such split, or faults in its file; all of them are listed.
    """
    rows, tags = _split_rows(layout, split, frame_wh, whole_file), _tags(layout)
    return [_command(row, layout, frame_wh, tags) for row in rows]


def load_commands(
    layout: Talk2CarLayout, split: str, *, frame_wh: tuple[int, int] = FRAME_WH, allow_missing: bool = False
) -> list[Command]:
    """The commands of a split in the file's order, each with an image file.

    Args:
        frame_wh: the annotation frame (width, height).
        allow_missing: drop commands whose image is missing; the list may then be empty.
    Raises:
        DataError: no such split, faults in its file (all are listed), or "missing N of M images".
    """
    commands = read_commands(layout, split, frame_wh=frame_wh)
    names = [str(command.image_path.relative_to(layout.images)) for command in commands]
    missing = set(missing_files(layout.images, names))
    if missing and not allow_missing:
        absent = [name for name in names if name in missing]
        raise DataError(missing_message(layout.images, absent, len(names), GET_IMAGES))
    return [command for command, name in zip(commands, names, strict=True) if name not in missing]


def validate_talk2car(root: Path, frame_wh: tuple[int, int] = FRAME_WH) -> list[str]:
    """Every structural fault under a Talk2Car root, each with path and remedy; empty for a sound one.

    Reads all command files, and of every image the header and the end (no pixel is decoded).
    """
    try:
        layout = find_talk2car(root)
    except DataError as error:
        return [str(error)]
    faults, rows_of = [], {}
    if "train" not in layout.commands:
        folders = ", ".join(str(layout.root / folder) for folder in COMMAND_FOLDERS)
        faults.append(f"{layout.root}: no train_commands.json (looked in {folders}); copy it from the release")
    for split, path in layout.commands.items():
        try:
            rows_of[split], found = _checked_rows(path, split, frame_wh)
        except DataError as error:
            found = [str(error)]
        faults += found
    faults += _overlaps(layout, rows_of)
    for split, rows in rows_of.items():
        faults += _image_faults(layout, split, rows, frame_wh)
    return faults + _tag_faults(layout)


# Loading --------------------------------------------------------------------------------------------------------------


def _first_file(root: Path, name: str) -> Path | None:
    return next((path for folder in COMMAND_FOLDERS if (path := root / folder / name).is_file()), None)


def _split_rows(layout: Talk2CarLayout, split: str, frame_wh: tuple[int, int], whole_file: bool) -> list[dict]:
    if split not in SPLITS:
        raise ValueError(f"Talk2Car has the splits {', '.join(SPLITS)}, not {split!r}")
    path = layout.commands.get("train" if split == "val" and layout.val_from_train else split)
    if path is None:
        there = ", ".join(path.name for path in layout.commands.values())
        raise DataError(f"{layout.root}: no {split}_commands.json (there are: {there})\n{EXPECTED}")
    rows, faults = _checked_rows(path, split, frame_wh)
    refuse(faults)
    if layout.val_from_train and split != "test" and not whole_file:
        held_out = _val_scenes({row["scene_token"] for row in rows}, path)
        rows = [row for row in rows if (row["scene_token"] in held_out) == (split == "val")]
    return rows


def _val_scenes(scenes: set[str], path: Path) -> set[str]:
    """Scenes held out as val, chosen by the hash of their tokens: the same ones whenever the file is read."""
    if len(scenes) < 2:
        raise DataError(f"{path}: one scene cannot be divided into train and val; add val_commands.json")
    ordered = sorted(scenes, key=lambda token: hashlib.sha256(token.encode()).digest())
    return set(ordered[: math.ceil(VAL_SCENE_SHARE * len(ordered))])


def _command(row: dict, layout: Talk2CarLayout, frame_wh: tuple[int, int], tags: Mapping) -> Command:
    box = row.get("2d_box")
    return Command(
        command_token=row["command_token"],
        text=" ".join(row["command"].split()),
        image_path=layout.images / row["t2c_img"],
        sample_token=row["sample_token"],
        scene_token=row["scene_token"],
        box_xywh_px=None if box is None else clip_box(box, frame_wh),
        class_name=row.get("obj_name"),
        tags=tags.get(row["command_token"], {}),
    )


def _tags(layout: Talk2CarLayout) -> Mapping[str, Mapping]:
    refuse(_tag_faults(layout))
    return read_json(layout.tags) if layout.tags else {}


# Faults ---------------------------------------------------------------------------------------------------------------


def _checked_rows(path: Path, split: str, frame_wh: tuple[int, int]) -> tuple[list[dict], list[str]]:
    """The rows of a command file and everything wrong with them. DataError if the file cannot be read at all."""
    document = read_json(path)
    rows = document.get("commands") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return [], [f"{path}: holds no list of commands ({{'commands': [...]}}); take the file from the release again"]
    if not rows:
        return [], [f"{path}: holds no command; take the file from the release again"]
    faults = []
    for number, row in enumerate(rows):
        name = f"{path}: command {number} ({row.get('command_token')})"
        faults += [f"{name}: {fault}" for fault in _row_faults(row, split, frame_wh)]
    tokens = [row["command_token"] for row in rows if isinstance(row.get("command_token"), str)]
    faults += [f"{path}: command_token {token} occurs more than once; remove a row" for token in repeated(tokens)]
    return rows, faults


def _row_faults(row: dict, split: str, frame_wh: tuple[int, int]) -> list[str]:
    faults = []
    for key in WORDS:
        if key not in row:
            faults.append(f"'{key}' is missing; take the row from the release again")
        elif not isinstance(row[key], str) or not row[key].strip():
            what = "is empty" if row[key] == "" or isinstance(row[key], str) else f"{row[key]!r} is no text"
            faults.append(f"'{key}' {what}; correct or remove the row")
    if isinstance(row.get("t2c_img"), str) and row["t2c_img"].strip():
        faults.append(name_problem(row["t2c_img"]))
    if not isinstance(row.get("obj_name"), str | None):
        faults.append(f"'obj_name' {row['obj_name']!r} is no text; correct the row")
    if row.get("2d_box") is not None:
        faults.append(box_problem(row["2d_box"], frame_wh))
    elif split != "test":
        faults.append("'2d_box' is missing, which only test rows may; take the row from the release again")
    return [fault for fault in faults if fault]


def _overlaps(layout: Talk2CarLayout, rows_of: Mapping[str, Sequence[dict]]) -> list[str]:
    """Commands and scenes that stand in two splits."""
    faults, splits = [], list(rows_of)
    for first, second in ((a, b) for i, a in enumerate(splits) for b in splits[i + 1 :]):
        for key, what in (("command_token", "commands"), ("scene_token", "scenes")):
            ours, theirs = ({row[key] for row in rows_of[s] if isinstance(row.get(key), str)} for s in (first, second))
            both = sorted(ours & theirs)
            if both:
                files = f"{layout.commands[first].name} and {layout.commands[second].name}"
                faults.append(
                    f"{layout.root}: {len(both)} {what} are in both {files} ({', '.join(both[:3])}); "
                    "remove them from one, or the score is no score"
                )
    return faults


def _image_faults(layout: Talk2CarLayout, split: str, rows: Sequence[dict], frame_wh: tuple[int, int]) -> list[str]:
    """Missing, damaged or misshapen frames."""
    names = list(dict.fromkeys(row["t2c_img"] for row in rows if name_problem(row.get("t2c_img")) is None))
    missing = missing_files(layout.images, names)
    faults = [missing_message(layout.images, missing, len(names), GET_IMAGES) + f" ({split})"] if missing else []
    shape = frame_wh[0] / frame_wh[1]
    for name in names:
        if name in set(missing):
            continue
        size, fault = header_problem(layout.images / name)
        if fault:
            faults.append(fault)
        elif abs(size[0] / size[1] / shape - 1) > ASPECT_TOLERANCE:
            faults.append(
                f"{layout.images / name}: is {size[0]}x{size[1]}, another shape than the {frame_wh[0]}x{frame_wh[1]} "
                "frame its box is given in; put the whole camera frame back"
            )
    return faults


def _tag_faults(layout: Talk2CarLayout) -> list[str]:
    if layout.tags is None:
        return []
    try:
        tags = read_json(layout.tags)
    except DataError as error:
        return [str(error)]
    if not isinstance(tags, dict) or not all(isinstance(notes, dict) for notes in tags.values()):
        return [f"{layout.tags}: is not {{command_token: {{...}}}}; correct or remove it"]
    return []
