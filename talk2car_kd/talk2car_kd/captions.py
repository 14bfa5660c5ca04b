"""The sentence a region gets: "a small car" from its category and size, or a COCO caption that speaks of it.

A template caption names what the crop shows and nothing else; 80 categories x 2 sizes give about 160 of them, so rows
of a batch often share one (the losses know). COCO's own captions describe whole images and their prominent objects: a
region may borrow one only if it is its category's largest in the image and the caption mentions that category once, by
name, plural or a usual synonym ("a red car beside a white car" would fit neither).
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

# `{thing}` becomes "a small car". The first is the training caption; evaluation averages the embeddings of all.
TEMPLATES = (
    "{thing}",
    "a photo of {thing}",
    "a cropped photo of {thing}",
    "there is {thing} in the scene",
)

# "a small scissors" is not English.
PAIRS = {"scissors": "pair of scissors", "skis": "pair of skis"}

# Spelled with a vowel and spoken with a consonant, and the other way round.
CONSONANT_SOUND = re.compile(r"(?:uni(?!n)|use|eu|one\b|once\b)", re.IGNORECASE)
SILENT_H = re.compile(r"(?:hour|honest|honou?r|heir)", re.IGNORECASE)

# Words captions use for COCO's category names; the name itself is always one of them.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": (
        *("man", "men", "woman", "women", "boy", "girl", "child", "children", "people", "guy", "lady", "ladies"),
        *("kid", "baby", "babies", "player", "skier", "surfer", "skateboarder", "rider", "pedestrian"),
    ),
    "airplane": ("plane", "jet", "aircraft"),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
    "couch": ("sofa",),
    "tv": ("television",),
    "cell phone": ("phone", "cellphone"),
    "dining table": ("table",),
    "potted plant": ("plant",),
    "sports ball": ("ball",),
    "refrigerator": ("fridge",),
    "wine glass": ("glass", "wine"),
}


def size_word(area_px: float, small_area_px: float = 1024.0, large_area_px: float | None = None) -> str:
    """ "small" below `small_area_px`; otherwise "large", or "medium" below `large_area_px` where that is given.

    Areas are pixels of the original image, and of the object's mask where the annotations have one (COCO's rule).
    """
    if area_px < small_area_px:
        return "small"
    return "medium" if large_area_px is not None and area_px < large_area_px else "large"


def article(word: str) -> str:
    """ "a" or "an", by the sound the word begins with: an apple, an hour, a unicycle."""
    if SILENT_H.match(word):
        return "an"
    return "an" if word[:1].lower() in "aeiou" and not CONSONANT_SOUND.match(word) else "a"


def region_caption(name: str, size: str | None, template: int | np.random.Generator = 0) -> str:
    """Caption of a region: `region_caption("car", "small")` is "a small car", `("apple", None)` is "an apple".

    Args:
        name: category name.
        size: size word, or None for a caption without one.
        template: index into TEMPLATES, or a generator that draws one.
    """
    index = int(template.integers(len(TEMPLATES))) if isinstance(template, np.random.Generator) else template
    words = " ".join(filter(None, (size, PAIRS.get(name, name))))
    return TEMPLATES[index].format(thing=f"{article(words)} {words}")


def caption_mentions(caption: str, name: str) -> bool:
    """Whether the caption speaks of the category: its name, a plural or a synonym, as whole words, any case."""
    return _mention(name).search(caption) is not None


def mentioning_once(captions: Sequence[str], name: str) -> list[str]:
    """Those of an image's captions that mention the category exactly once, tidied to single spaces."""
    return [" ".join(caption.split()) for caption in captions if len(_mention(name).findall(caption)) == 1]


@lru_cache(maxsize=1024)
def _mention(name: str) -> re.Pattern[str]:
    words = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in (name, *SYNONYMS.get(name, ())))
    return re.compile(rf"\b(?:{words})(?:s|es)?\b", re.IGNORECASE)
