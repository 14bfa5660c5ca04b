"""Which frames belong to which split.

A list in `ImageSets/<split>.txt` (one id a line) rules. Without lists the field's usual split of the 7,481 training
frames applies (Chen et al. 2015: 3,712 train, 3,769 val; trainval both; test the 7,518 testing frames): it is kept
here as one bit a frame, so that KITTI as downloaded needs nothing more.
"""

import base64
import re
from pathlib import Path

import numpy as np

from shared.errors import DataError

SPLITS = ("train", "val", "trainval", "test")
LABELLED_FRAMES, TEST_FRAMES = 7481, 7518
ID = re.compile(r"\d{6}")

# Bit i: frame i is for training (else for validation).
TRAIN_BITS = (
    "kX7iJqpeU8if8b+Z3Ufx1XSm7ja+GPjEQqbjXljC3Af0kTyni7miTiYycoxCGZMIlgCGOOXh821ArvMgOaBOUWq2W3iWzDQn+vDvN8DHFcbSXofp"
    "2sflRVfxmi0zlFe4Ic39bQCHbt75JhXs+4Czua9qY01HxHM1pIlqFv7cQMmP6s3I3oDh5TwpRoVqoEIhDc7zBOIM7PkZFUKBoKKAD7SkfgfZ/4Et"
    "DSbr9DFC6f7Ga25oiU/a2vk6Prnmk5B6HYtrUrksgFNJ2iuqj2rdVQ3vR7mpCBics/GYbdNlUM/LFnmUNu91YEjjaTBTlzv+YCEwn158t4Qa4hdB"
    "qaPBwRUd9oSYqfDmLSZOBf48KRusp7ccvkczHulMld9yRMDGRc56lRMHstiXVA448+zEMx5d3JD/kO1WpBr2OQXC13HDFLId3AXy65SlMes624s5"
    "0G3IKxAetQMpIvL+y5MxhNfEtjB7Ws/gK4BwttLzXL0mqAXtDTaKIM/tKA3MUFmOl15daMlV9Kg5Fbaa1KDtWsbNKRI2XsSvm2cvdlEVJMPPmswp"
    "8Frvn4KAB6mRT+4bewjdBgY8Xuo2Du5tGM9p9Hf/Mi1QaA/qssni8McH/KZk7X4PxKfHronnnVIl9cXLvvVnWRwpxYmrx2XlnpX1k5axX3UGD3vH"
    "FRsu6jdaiqZTILARBxTxAQdg/6Dn2JjwV3qNDGb86RMIwopcpJ4UsT9GGb42MYT8wBmIZtVVuU8IiXn2sjwF8eKz3BlZovTvBtVZFXYGl4M+SCCH"
    "kIER1IQXNsUbPOR6dMg5uG7tB8Bmj7piXCvZNCTYQ5RN/WqRhJdYq1dRO5AcJQgd2PqxPxJ6QiuhhFRhMNi9+YnJkxWudeaGVrcPYiSLGBip/mkm"
    "i5j/8/r8yNuiE8OOEpS837zP62VVHmB5wzFB5w/bDryMT5NFczNqvsZDG/IuYg7bS/+8DZco58HL3i/0L3u0irHiiBCI6s9jbYuW2RfSixF+QJSA"
    "VZDEyeh6FM3BiNtvVleqOz2Nxdda7eM9dJ/eiQVcf7GfQ5fhxDKDdQejlofojjYPghHh/TEJhWseh0IzgLXypSsdGNUjx+HeExGujkdJ0NnwWvgO"
    "aaGbLgQSQ5CaUWRiTfMzppBU1RaSroLFm9tfHDWGV2uR6VppRGzAGc4yaqJUAi7W+Wpbwk8b2YE1FO/cElSrqS1U8lGOCGYF5HjsyI8sKD53rDA6"
    "4YqCYF2CWhtcQakA"
)


def usual_split(split: str) -> list[str]:
    """The frame ids of KITTI's usual split, in ascending order."""
    if split == "test":
        return [f"{number:06d}" for number in range(TEST_FRAMES)]
    train = np.unpackbits(np.frombuffer(base64.b64decode(TRAIN_BITS), np.uint8))[:LABELLED_FRAMES].astype(bool)
    chosen = {"train": train, "val": ~train, "trainval": np.ones_like(train)}[split]
    return [f"{number:06d}" for number in np.nonzero(chosen)[0]]


def listed_split(path: Path) -> list[str]:
    """The ids of an ImageSets file, in its order.

    Raises:
        DataError: not text, an id that is not six digits, or one that stands twice.
    """
    try:
        ids = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}): write one six-digit id a line.") from error
    strange = [name for name in ids if not ID.fullmatch(name)]
    if strange:
        raise DataError(f"{path}: {strange[0]!r} is not a frame id: write one six-digit id a line, as in 000123.")
    seen: set[str] = set()
    twice = [name for name in ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if twice:
        raise DataError(f"{path}: {twice[0]} stands twice ({len(twice)} repetitions in all): keep one of each.")
    return ids
