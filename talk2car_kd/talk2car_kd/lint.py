"""Legal but suspicious rows of a COCO or Talk2Car root: what a person should look at before trusting a score.

    python -m talk2car_kd.lint DATA_ROOT

Prints findings as "kind: where: what", the first 20 of a kind (`--all`: every one), and their number by kind; exits 0.
Structural faults are another matter: `python main.py --validate` lists them and exits 2, as this does on such a root.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shared.errors import DataError
from shared.run import run_command
from talk2car_kd.coco_annotations import CocoLayout, caption_faults, find_coco, instance_faults
from talk2car_kd.flips import side_of
from talk2car_kd.records import read_json, refuse
from talk2car_kd.talk2car_annotations import FRAME_WH, Command, Talk2CarLayout, find_talk2car, read_commands

MIN_SIDE_PX = 13.0  # shortest side of a box in Talk2Car's val and test splits
COCO_MIN_SIDE_PX = 8.0  # shorter ones are left out of Stage 1
MAX_SHARE = 0.5  # of the frame; 14.7 % is the 95th percentile
MAX_WORDS = 44  # CLIP tokens of the longest command
MAX_ASPECT = 20.0  # of a box's sides
MIN_CAPTION_WORDS = 4
SHOWN = 20  # findings of a kind that are printed
SIDE_MARGIN = 0.05  # of the frame's width around its middle, where either side word is fair

# Words people use for nuScenes' categories, by a part of the category's name; plurals are understood.
NOUNS: dict[str, tuple[str, ...]] = {
    "car": ("car", "vehicle", "suv", "sedan", "hatchback", "taxi", "cab", "jeep", "van", "minivan", "coupe", "wagon"),
    "truck": ("truck", "lorry", "vehicle", "pickup", "pick-up", "van", "semi"),
    "bus": ("bus", "buses", "coach", "vehicle", "shuttle"),
    "construction": ("excavator", "crane", "digger", "machine", "vehicle", "truck", "bulldozer", "forklift"),
    "emergency": ("ambulance", "police", "fire", "vehicle", "car", "truck"),
    "trailer": ("trailer", "truck", "container"),
    "motorcycle": ("motorcycle", "motorbike", "bike", "scooter", "moped", "motor"),
    "bicycle": ("bicycle", "bike", "cyclist", "bicyclist", "cycle", "biker"),
    "pedestrian": (
        *(
            "pedestrian",
            "person",
            "people",
            "man",
            "men",
            "woman",
            "women",
            "guy",
            "lady",
            "ladies",
            "girl",
            "boy",
            "kid",
        ),
        *(
            "child",
            "children",
            "worker",
            "officer",
            "policeman",
            "friend",
            "someone",
            "he",
            "she",
            "him",
            "her",
            "they",
        ),
        *("dude", "fellow", "gentleman", "mother", "father", "mom", "dad", "brother", "sister", "colleague", "cop"),
    ),
    "trafficcone": ("cone", "traffic", "pylon"),
    "barrier": ("barrier", "fence", "block", "barricade", "divider"),
    "pushable_pullable": ("cart", "bin", "can", "trash", "garbage", "dumpster", "container", "stroller", "wheelbarrow"),
    "debris": ("debris", "trash", "garbage", "bag", "box", "leaves"),
    "bicycle_rack": ("rack", "bike", "bicycle"),
    "animal": ("animal", "dog", "cat", "bird"),
}


class Finding(NamedTuple):
    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


def lint(root: Path) -> list[Finding]:
    """Everything suspicious under a COCO or Talk2Car root, or one that is both. DataError if it is neither."""
    findings, reasons = [], []
    for find, look in ((find_talk2car, lint_talk2car), (find_coco, lint_coco)):
        try:
            layout = find(root)
        except DataError as error:
            reasons.append(str(error))
            continue
        findings.append(look(layout))
    if not findings:
        raise DataError("\n\n".join(reasons))
    return [finding for found in findings for finding in found]


# Talk2Car -------------------------------------------------------------------------------------------------------------


def lint_talk2car(layout: Talk2CarLayout) -> list[Finding]:
    """Findings of every command file. DataError if a file has structural faults (--validate lists them)."""
    findings = []
    for split, path in layout.commands.items():
        commands = read_commands(layout, split, whole_file=True)
        for command in commands:
            where = f"{path.name} {command.command_token}"
            findings += [Finding(kind, where, what) for kind, what in _command_findings(command)]
        findings += [Finding(kind, f"{path.name} {where}", what) for kind, where, what in _frame_findings(commands)]
    return findings


def _command_findings(command: Command) -> Iterator[tuple[str, str]]:
    words = len(command.text.split())
    if words > MAX_WORDS:
        yield "long", f"{words} words; the text encoder may cut them off"
    if words < 2:
        yield "short", repr(command.text)
    if not command.text.isascii():
        yield "characters", repr(command.text)
    if command.class_name is not None:
        yield from _noun_findings(command.text, command.class_name)
    if command.box_xywh_px is not None:
        yield from _box_findings(command.text, command.box_xywh_px)


def _noun_findings(text: str, class_name: str) -> Iterator[tuple[str, str]]:
    parts = class_name.split(".")
    nouns = next((NOUNS[part] for part in reversed(parts) if part in NOUNS), None)
    nouns = NOUNS["pedestrian"] if nouns is None and "pedestrian" in parts else nouns
    if nouns is None:
        yield "unknown class", repr(class_name)
    elif not re.search(rf"\b(?:{'|'.join(nouns)})(?:s|es)?\b", text, re.IGNORECASE):
        yield "class not named", f"{class_name}: {text!r}"


def _box_findings(text: str, box: Sequence[float]) -> Iterator[tuple[str, str]]:
    x, _, w, h = box
    if min(w, h) < MIN_SIDE_PX:
        yield "tiny box", f"{w:g}x{h:g} px"
    if w * h > MAX_SHARE * FRAME_WH[0] * FRAME_WH[1]:
        yield "huge box", f"{w:g}x{h:g} px"
    centre = (x + w / 2) / FRAME_WH[0] - 0.5
    side = side_of(text)
    if (side == "left" and centre > SIDE_MARGIN) or (side == "right" and centre < -SIDE_MARGIN):
        yield "side", f"says {side}, the box is centred at {100 * (centre + 0.5):.0f} % of the width: {text!r}"


def _frame_findings(commands: Sequence[Command]) -> Iterator[tuple[str, str, str]]:
    """The same words about one frame for different boxes, and rows that stand there twice."""
    said = defaultdict(list)
    for command in commands:
        said[command.sample_token, command.text.lower().strip(" .!")].append(command)
    for (frame, text), group in said.items():
        boxes = {command.box_xywh_px for command in group}
        if len(boxes) > 1:
            yield "ambiguous", f"frame {frame}", f"{text!r} for {len(boxes)} different boxes"
        elif len(group) > 1:
            yield "repeated", f"frame {frame}", f"{text!r} {len(group)} times for one box"


# COCO -----------------------------------------------------------------------------------------------------------------


def lint_coco(layout: CocoLayout) -> list[Finding]:
    """Findings of the instance and caption files. DataError if a file has structural faults (--validate lists them)."""
    findings = []
    for split in ("train", "val") if layout.official else ("train",):
        files = layout.files(split)
        document = read_json(files.instances)
        refuse(instance_faults(document, files.instances))
        found = [*_object_findings(document["annotations"]), *_image_findings(document)]
        findings += [Finding(kind, f"{files.instances.name} {where}", what) for kind, where, what in found]
        if files.captions is not None:
            captions = read_json(files.captions)
            refuse(caption_faults(captions, files.captions))
            found = _caption_findings(captions["annotations"])
            findings += [Finding(kind, f"{files.captions.name} {where}", what) for kind, where, what in found]
    return findings


def _object_findings(annotations: Sequence[dict]) -> Iterator[tuple[str, str, str]]:
    boxes = Counter()
    for row in annotations:
        where, (_, _, w, h) = f"annotation {row['id']}", row["bbox"]
        key = (row["image_id"], row["category_id"], *row["bbox"])
        boxes[key] += 1
        if boxes[key] == 2:
            yield "repeated box", where, f"image {row['image_id']} has this box of this category already"
        if row.get("iscrowd", 0):
            continue
        if min(w, h) < COCO_MIN_SIDE_PX:
            yield "tiny box", where, f"{w:g}x{h:g} px; left out below stage1.min_side_px"
        elif max(w, h) > MAX_ASPECT * min(w, h):
            yield "thin box", where, f"{w:g}x{h:g} px"
        if row.get("area", 0) > 1.01 * w * h + 1:
            yield "mask beyond box", where, f"mask {row['area']:g} px2, box {w * h:g} px2"


def _image_findings(document: dict) -> Iterator[tuple[str, str, str]]:
    with_objects = {row["image_id"] for row in document["annotations"]}
    for image in document["images"]:
        if image["id"] not in with_objects:
            yield "no objects", f"image {image['id']}", image["file_name"]


def _caption_findings(rows: Sequence[dict]) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        if len(row["caption"].split()) < MIN_CAPTION_WORDS:
            yield "short caption", f"caption {row['id']}", repr(row["caption"])
        if not row["caption"].isascii():
            yield "characters", f"caption {row['id']}", repr(row["caption"])


# Command line ---------------------------------------------------------------------------------------------------------


def report(findings: Iterable[Finding], shown: int | None) -> str:
    """The findings by kind, at most `shown` of each, with their numbers."""
    by_kind = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    lines = [str(finding) for kind in sorted(by_kind) for finding in by_kind[kind][:shown]]
    counts = [f"{len(found):6d}  {kind}" for kind, found in sorted(by_kind.items())]
    return "\n".join([*lines, "", *counts] if counts else ["nothing suspicious"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path, help="a COCO or Talk2Car root")
    parser.add_argument("--all", action="store_true", help=f"list every finding, not the first {SHOWN} of a kind")
    arguments = parser.parse_args(argv)
    return run_command(lambda: print(report(lint(arguments.data_root), None if arguments.all else SHOWN)))


if __name__ == "__main__":
    sys.exit(main())
