"""Damage done on purpose to pairs of the test split, so that loaders and validators can be shown to notice.

missing_partner   the infrared picture is not there          other_size     it has half the rows and columns
broken_xml        the label file ends in the middle          box_outside    its first box lies beyond the picture
unknown_label     its first object is a `horse`
"""

import re
from pathlib import Path

import cv2
import numpy as np

from shared.errors import ConfigError

from .layouts import Files, files_of
from .spec import FAULTS, WorldSpec


def spoil(root: Path, spec: WorldSpec, fault: str) -> Path:
    """Do one damage of FAULTS to a written world, each to a pair of its own. Returns the path that is wrong.

    Raises:
        ConfigError: the test split has too few pairs with a labelled object for this fault.
    """
    files = _victim(root, spec, fault)
    if fault == "missing_partner":
        files.infrared.unlink()
        return files.infrared
    if fault == "other_size":
        _halve(files.infrared)
        return files.infrared
    text = files.xml.read_text(encoding="utf-8")
    files.xml.write_text(_damaged(text, fault, spec), encoding="utf-8")
    return files.xml


def _victim(root: Path, spec: WorldSpec, fault: str) -> Files:
    labelled = [files for files in (files_of(root, spec, shot) for shot in spec.shots("test"))
                if "<object>" in files.xml.read_text(encoding="utf-8")]  # fmt: skip
    index = FAULTS.index(fault)
    if index >= len(labelled):
        raise ConfigError(
            f"embedded world: fault {fault!r} needs {index + 1} test pairs with a labelled object, this world has "
            f"{len(labelled)}; ask for more test pairs."
        )
    return labelled[index]


def _halve(path: Path) -> None:
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    path.write_bytes(cv2.imencode(path.suffix, picture[::2, ::2])[1].tobytes())


def _damaged(text: str, fault: str, spec: WorldSpec) -> str:
    if fault == "broken_xml":
        return text[: text.index("<bndbox>") + 4]
    if fault == "unknown_label":
        return re.sub(r"<name>[^<]*</name>", "<name>horse</name>", text, count=1)
    beyond = 2 * spec.size_hw[1]
    if spec.layout == "kaist":
        return re.sub(r"<x>\d+</x>", f"<x>{beyond}</x>", text, count=1)
    text = re.sub(r"<xmin>\d+</xmin>", f"<xmin>{beyond}</xmin>", text, count=1)
    return re.sub(r"<xmax>\d+</xmax>", f"<xmax>{beyond + 9}</xmax>", text, count=1)
