"""Reading pedestrian annotations: VOC xml (LLVIP), KAIST xml, and the text forms of KAIST.

    read_xml(path)                    LLVIP: bndbox xmin ymin xmax ymax;  KAIST: bndbox x y w h, told apart per object
    read_bbgt(path)                   "% bbGt version=3": label x y w h occ vx vy vw vh ign angle
    read_corners(path)                sanitized (Li et al., BMVC 2018): label x1 y1 x2 y2, counted from 1
    read_paired(visible, infrared)    AR-CNN: one text file a modality, row i of both is the same person

Readers raise DataError when a file cannot be understood (file, line, remedy). Whether what they read makes sense
(numbers finite, boxes inside, labels known) is told by `label_problems`: a loader stops at its first answer, the
validator lists all. Plain Python: neither mmdet nor torch is imported.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shared.errors import DataError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the stored image

PERSON = "person"
KAIST_LABELS = ("person", "people", "cyclist", "person?")  # all but the first are regions to ignore
IGNORE_LABEL = "ignore"  # of the sanitized files
OCCLUSIONS = (0, 1, 2)  # none, partial, heavy
BBGT_HEADER = "% bbGt"
BBGT_FIELDS = 12  # label x y w h occ vx vy vw vh ign angle
ABSURD_PX = 1e5  # no camera is so large


@dataclass(frozen=True)
class LabelledBox:
    """One box of an annotation file."""

    where: str  # "object 3" or "line 4": for messages
    label: str
    box_px: Box
    occlusion: int = 0
    ignore: bool = False  # the file's own flag (`difficult` in xml, the 11th column in bbGt)
    box_ir_px: Box | None = None  # where the label set has boxes per modality


@dataclass(frozen=True)
class Labels:
    """The boxes of one annotation file; `size_hw` is the image size it states, None when it states none."""

    path: Path
    boxes: tuple[LabelledBox, ...]
    size_hw: tuple[int, int] | None = None


# ---------------------------------------------------------------- xml


def read_xml(path: Path, *, one_based: bool = False) -> Labels:
    """A VOC xml; `one_based` takes 1 off xmin ymin xmax ymax (mmdet's habit; the official LLVIP converter does not).

    Stray text between elements is tolerated (files in circulation carry some).

    Raises:
        DataError: missing, not XML, a box without its numbers, a number that is none.
    """
    root = _parse_xml(path)
    boxes = tuple(
        _xml_box(path, f"object {number}", node, one_based) for number, node in enumerate(root.findall("object"), 1)
    )
    return Labels(path, boxes, _xml_size(path, root))


def _parse_xml(path: Path) -> ElementTree.Element:
    data = _bytes_of(path)
    if not data.strip():
        raise DataError(f"{path} is empty: extract the annotations again.")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise DataError(
            f"{path}, line {line}, column {column + 1}: no valid XML ({error}): correct it, or extract the file again."
        ) from error
    if root.tag != "annotation":
        raise DataError(f"{path}: its outermost element is <{root.tag}>, not <annotation>: not a VOC or KAIST file.")
    return root


def _xml_box(path: Path, where: str, node: ElementTree.Element, one_based: bool) -> LabelledBox:
    frame = node.find("bndbox")
    if frame is None:
        raise DataError(f"{path}, {where} has no <bndbox>: correct the object, or remove it.")
    if frame.find("xmin") is not None:
        box = tuple(_number(path, where, frame, tag) - one_based for tag in ("xmin", "ymin", "xmax", "ymax"))
    else:
        x, y, w, h = (_number(path, where, frame, tag) for tag in ("x", "y", "w", "h"))
        box = (x, y, x + w, y + h)
    return LabelledBox(
        where=where,
        label=(node.findtext("name") or "").strip(),
        box_px=box,
        occlusion=int(_number(path, where, node, "occlusion", default=0)),
        ignore=bool(_number(path, where, node, "difficult", default=0)),
    )


def _xml_size(path: Path, root: ElementTree.Element) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    return int(_number(path, "<size>", size, "height")), int(_number(path, "<size>", size, "width"))


def _number(path: Path, where: str, node: ElementTree.Element, tag: str, default: float | None = None) -> float:
    text = node.findtext(tag)
    if text is None and default is not None:
        return default
    if text is None:
        raise DataError(f"{path}, {where}: <{tag}> is missing in <{node.tag}>: add it, or remove the object.")
    return _as_number(path, f"{where}, <{tag}>", text)


# ---------------------------------------------------------------- text


def read_bbgt(path: Path) -> Labels:
    """Boxes as x y w h; the KAIST text annotations. See `read_corners` for DataError."""
    return Labels(path, tuple(_bbgt_box(path, where, fields) for where, fields in _rows(path)))


def read_corners(path: Path) -> Labels:
    """Boxes as x1 y1 x2 y2 counted from 1 (the sanitized training labels); returned counted from 0.

    Raises:
        DataError: missing, not text, a row with too few columns, a number that is none.
    """
    return Labels(path, tuple(_corner_box(path, where, fields) for where, fields in _rows(path)))


def read_paired(visible: Path, infrared: Path) -> Labels:
    """Boxes per modality (Zhang et al., AR-CNN): rows of the two files belong together by their position.

    Raises:
        DataError: as `read_corners`; or the files have different numbers of rows or different labels in a row.
    """
    first, second = read_bbgt(visible), read_bbgt(infrared)
    if len(first.boxes) != len(second.boxes):
        raise DataError(
            f"{visible} has {len(first.boxes)} boxes and {infrared} has {len(second.boxes)}: rows belong together by "
            "position, so both need the same number; extract the paired annotations again."
        )
    return replace(
        first, boxes=tuple(_joined(a, b, visible, infrared) for a, b in zip(first.boxes, second.boxes, strict=True))
    )


def _joined(visible: LabelledBox, infrared: LabelledBox, path: Path, path_ir: Path) -> LabelledBox:
    if visible.label != infrared.label:
        raise DataError(
            f"{path}, {visible.where} says {visible.label!r}, {path_ir} says {infrared.label!r} there: "
            "rows of the two files belong together; correct one of them."
        )
    return replace(visible, box_ir_px=infrared.box_px, ignore=visible.ignore or infrared.ignore)


def text_box_format(paths: Sequence[Path], size_hw: tuple[int, int]) -> str:
    """Whether a set of KAIST text files gives 'xywh' or 'xyxy': a single row cannot tell, all rows together do.

    A full bbGt row (12 columns) or an end before its beginning means xywh; a label 'ignore', or x + w beyond the
    image, means xyxy.

    Raises:
        DataError: the files speak for both, or for none.
    """
    evidence: dict[str, str] = {}
    for path in paths:
        for where, fields in _rows(path):
            found = _row_format(path, where, fields, size_hw)
            evidence.setdefault(found, f"{path}, {where}") if found else None
        if len(evidence) == 2:
            break
    if len(evidence) == 1:
        return next(iter(evidence))
    told = "; ".join(f"{kind} by {place}" for kind, place in evidence.items()) or "no row decides it"
    raise DataError(
        f"{len(paths)} text annotations may be x y w h or x1 y1 x2 y2 ({told}): "
        "set box_format='xywh' or 'xyxy' in the data set's config."
    )


def _row_format(path: Path, where: str, fields: list[str], size_hw: tuple[int, int]) -> str | None:
    if len(fields) >= BBGT_FIELDS and any(float_or_zero(text) for text in fields[6:10]):
        return "xywh"  # visible parts are written in bbGt rows only
    if fields[0] == IGNORE_LABEL:
        return "xyxy"
    a, b, c, d = _numbers(path, where, fields)
    if c <= a or d <= b:
        return "xywh"
    height, width = size_hw
    return "xyxy" if a + c > width + 16 or b + d > height + 16 else None


def float_or_zero(text: str) -> float:
    """The number a column holds; 0 for a column that holds none (a caller decides by it, it does not use it)."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    data = _bytes_of(path)
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): extract it again.") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("%"):
            yield f"line {number}", line.split()


def _numbers(path: Path, where: str, fields: list[str]) -> list[float]:
    if len(fields) < 5:
        raise DataError(f"{path}, {where} has {len(fields)} columns, not a label and four numbers: extract it again.")
    return [_as_number(path, where, text) for text in fields[1:5]]


def _bbgt_box(path: Path, where: str, fields: list[str]) -> LabelledBox:
    x, y, w, h = _numbers(path, where, fields)
    occlusion = int(_as_number(path, where, fields[5])) if len(fields) > 5 else 0
    ignore = bool(_as_number(path, where, fields[10])) if len(fields) > 10 else False
    return LabelledBox(where, fields[0], (x, y, x + w, y + h), occlusion, ignore)


def _corner_box(path: Path, where: str, fields: list[str]) -> LabelledBox:
    x1, y1, x2, y2 = (number - 1 for number in _numbers(path, where, fields))
    return LabelledBox(where, fields[0], (x1, y1, x2, y2), ignore=fields[0] == IGNORE_LABEL)


def _as_number(path: Path, where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}, {where}: {text!r} is no number: correct it.") from None


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: extract the annotations again, or leave the pair out.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, an annotation file is expected there.") from None


# ---------------------------------------------------------------- sense


def label_problems(
    labels: Labels, known: Collection[str], size_hw: tuple[int, int] | None, *, slack_px: float = math.inf
) -> Iterator[str]:
    """What is wrong with the boxes of a file, one sentence each.

    Args:
        known: labels that may occur.
        size_hw: of the image, when known: a box wholly outside is a mistake.
        slack_px: how far a box may reach over the image's border; KAIST's own test labels do so by up to 6 px.
    """
    for box in labels.boxes:
        where = f"{labels.path}, {box.where}"
        if box.label not in known:
            yield f"{where}: unknown label {box.label!r} (known: {', '.join(known)}): correct it, or add the class."
        if box.occlusion not in OCCLUSIONS:
            yield f"{where}: occlusion {box.occlusion} is not 0 (none), 1 (partial) or 2 (heavy): correct it."
        for name, corners in (("box", box.box_px), ("infrared box", box.box_ir_px)):
            fault = _box_fault(corners, size_hw, slack_px) if corners else None
            if fault:
                yield f"{where}: its {name} {_shown(corners)} {fault}: correct the annotation."


def _box_fault(box: Box, size_hw: tuple[int, int] | None, slack_px: float) -> str | None:
    x1, y1, x2, y2 = box
    if not all(math.isfinite(number) and abs(number) < ABSURD_PX for number in box):
        return "holds a number that is no pixel position"
    if x1 >= x2 or y1 >= y2:
        return "ends before it begins"
    if max(abs(number) for number in box) <= 1:
        return "is within one pixel (written as fractions of the image?)"
    if size_hw is None:
        return None
    height, width = size_hw
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return f"lies outside the {width}x{height} image"
    over_px = max(-x1, -y1, x2 - width, y2 - height)
    return f"reaches {over_px:g} px over the border of the {width}x{height} image" if over_px > slack_px else None


def _shown(box: Box) -> str:
    return "[" + ", ".join(f"{number:g}" for number in box) + "]"
