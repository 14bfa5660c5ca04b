"""Where a pair's files lie and how its labels are written, in LLVIP's layout and in KAIST's.

LLVIP   visible/{train,test}/010001.jpg  infrared/{train,test}/010001.jpg     the same name is a pair
        Annotations/010001.xml           VOC: xmin ymin xmax ymax counted from 1, xmax and ymax included; `person` alone
KAIST   images/set06/V000/{visible,lwir}/I00019.jpg
        annotations-xml-new/set06/V000/I00019.xml                             x y w h counted from 0, occlusion 0-2
        annotations/set06/V000/I00019.txt                                     bbGt version 3, the same boxes
        annotations_paired/set06/V000/{visible,lwir}/I00019.txt               of a misaligned world: boxes per picture
        imageSets/{train-all-02,train-day-02,train-night-02,test-all-20,test-day-20,test-night-20}.txt
        KAIST_annotation.json                                                 the test split, for the miss rate

One box serves both pictures of a misaligned pair except in annotations_paired; it is the visible picture's. An object
that shows in one picture only has no row there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from .render import Box, Labelled
from .spec import Shot, WorldSpec

LISTS = {"train": "02", "test": "20"}  # the official lists take every second or twentieth frame
HALVES = ("visible", "lwir")
JSON_NAME = "KAIST_annotation.json"


@dataclass(frozen=True)
class Files:
    """The files of one pair. `text` and `paired` (visible, infrared) only where the layout has them."""

    visible: Path
    infrared: Path
    xml: Path
    text: Path | None = None
    paired: tuple[Path, Path] | None = None

    def all(self) -> list[Path]:
        return [path for path in (self.visible, self.infrared, self.xml, self.text, *(self.paired or ())) if path]


def files_of(root: Path, spec: WorldSpec, shot: Shot) -> Files:
    """Where the files of one pair lie below `root`."""
    if spec.layout == "llvip":
        image = f"{shot.split}/{shot.name}.jpg"
        return Files(root / "visible" / image, root / "infrared" / image, root / "Annotations" / f"{shot.name}.xml")
    video, frame = shot.name.rsplit("/", 1)
    visible, infrared = (root / "images" / video / half / f"{frame}.jpg" for half in HALVES)
    paired = tuple(root / "annotations_paired" / video / half / f"{frame}.txt" for half in HALVES)
    return Files(visible, infrared, root / "annotations-xml-new" / f"{shot.name}.xml",
                 root / "annotations" / f"{shot.name}.txt", paired if spec.misalignment_px else None)  # fmt: skip


def label_texts(files: Files, spec: WorldSpec, shot: Shot, objects: Sequence[Labelled]) -> dict[Path, str]:
    """Annotation file -> its text."""
    if spec.layout == "llvip":
        return {files.xml: _voc_xml(spec, shot, objects)}
    texts = {files.xml: _kaist_xml(spec, shot, objects), files.text: _bbgt((one, one.box) for one in objects)}
    if files.paired:
        both = [one for one in objects if one.box_infrared]
        texts[files.paired[0]] = _bbgt((one, one.box) for one in both)
        texts[files.paired[1]] = _bbgt((one, one.box_infrared) for one in both)
    return texts


def _voc_xml(spec: WorldSpec, shot: Shot, objects: Iterable[Labelled]) -> str:
    rows, columns = spec.size_hw
    body = "".join(
        f"\t<object>\n\t\t<name>{escape(one.label)}</name>\n\t\t<pose>Unspecified</pose>\n"
        f"\t\t<truncated>{_cut_off(one.box, spec.size_hw)}</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{one.box[0] + 1}</xmin>\n\t\t\t<ymin>{one.box[1] + 1}</ymin>\n"
        f"\t\t\t<xmax>{one.box[2]}</xmax>\n\t\t\t<ymax>{one.box[3]}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for one in objects
    )
    return (
        f"<annotation>\n\t<folder>{shot.split}</folder>\n\t<filename>{shot.name}.jpg</filename>\n"
        "\t<source>\n\t\t<database>embedded synthetic world</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{columns}</width>\n\t\t<height>{rows}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{body}</annotation>\n"
    )


def _cut_off(box: Box, size_hw: tuple[int, int]) -> int:
    """1 for a box that touches the border."""
    return int(box[0] == 0 or box[1] == 0 or box[2] == size_hw[1] or box[3] == size_hw[0])


def _kaist_xml(spec: WorldSpec, shot: Shot, objects: Iterable[Labelled]) -> str:
    rows, columns = spec.size_hw
    body = "".join(
        f"  <object>\n    <name>{escape(one.label)}</name>\n    <bndbox>\n"
        + "".join(f"      <{tag}>{value}</{tag}>\n" for tag, value in zip("xywh", xywh(one.box), strict=True))
        + f"    </bndbox>\n    <pose>unknown</pose>\n    <truncated>{_cut_off(one.box, spec.size_hw)}</truncated>\n"
        f"    <difficult>0</difficult>\n    <occlusion>{one.occlusion}</occlusion>\n  </object>\n"
        for one in objects
    )
    return (
        f"<annotation>\n  <folder>KAIST Multispectral Ped Benchmark</folder>\n  <filename>{shot.name}</filename>\n"
        "  <source>\n    <database>embedded synthetic world</database>\n  </source>\n"
        f"  <size>\n    <width>{columns}</width>\n    <height>{rows}</height>\n    <depth>4</depth>\n  </size>\n"
        f"  <segmented>0</segmented>\n{body}</annotation>\n"
    )


def xywh(box: Box) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _bbgt(rows: Iterable[tuple[Labelled, Box]]) -> str:
    lines = [f"{one.label} {' '.join(map(str, xywh(box)))} {one.occlusion} 0 0 0 0 0 0" for one, box in rows]
    return "\n".join(["% bbGt version=3", *lines]) + "\n"


def frame_lists(spec: WorldSpec) -> dict[str, str]:
    """KAIST's imageSets: file name -> text."""
    texts = {}
    for split, step in LISTS.items():
        shots = spec.shots(split)
        for part, chosen in (("all", shots), ("day", [s for s in shots if not s.night]),
                             ("night", [s for s in shots if s.night])):  # fmt: skip
            texts[f"{split}-{part}-{step}.txt"] = "".join(f"{shot.name}\n" for shot in chosen)
    return texts


def test_annotations(spec: WorldSpec, shots: Sequence[Shot], objects: Sequence[Sequence[dict]]) -> dict:
    """KAIST_annotation.json of the test split, in the list's order: day first, ids from 0; `ignore` decides, as there
    every category_id is 1. `objects` as in truth.json."""
    rows, columns = spec.size_hw
    images = [{"id": i, "im_name": shot.name, "height": rows, "width": columns} for i, shot in enumerate(shots)]
    flat = [(i, one) for i, labelled in enumerate(objects) for one in labelled]
    return {
        "info": {"dataset": "embedded synthetic world in the layout of KAIST: no real data", "scale": spec.scale},
        "images": images,
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1, "bbox": xywh(one["box"]),
             "height": xywh(one["box"])[3], "occlusion": one["occlusion"], "ignore": int(one["label"] != "person")}
            for number, (image, one) in enumerate(flat)
        ],
        "categories": [{"id": 0, "name": "__ignore__"}, {"id": 1, "name": "person"}],
    }  # fmt: skip
