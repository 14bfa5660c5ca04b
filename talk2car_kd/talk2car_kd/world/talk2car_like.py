"""Frames and commands in Talk2Car's own rows: 11 keys, boxes [x, y, w, h] as integers in the 1600x900 frame."""

import functools
import hashlib
from pathlib import Path

import numpy as np

from .canvas import jpeg_bytes
from .draw import draw_frame
from .language import command
from .scene import Frame, describe, sample_frame
from .semantics import Query, centre_x, named, queries
from .spec import HELD_OUT, KINDS, SPLITS, WorldSpec
from .street import Street, sample_street

# Aimed shares of the deciding cues. "class" is set by the frames: it decides wherever a thing is the only one of its
# class; the weights share out the rest.
CUE_WEIGHTS = {"class": 1.0, "colour": 0.14, "side": 0.58, "relation": 0.17, "order": 0.03, "size": 0.025}
RELATION_WEIGHTS = {
    "next to": 0.34,
    "behind": 0.2,
    "in front of": 0.2,
    "between": 0.14,
    "left of": 0.06,
    "right of": 0.06,
}
HELD_OUT_ASKED = 0.3  # of the commands of a val or test frame ask for its held-out thing, if there is one
RARE_KEPT = 0.25  # of the times when only a rank would do for a class; else another thing is asked about
_STREAM = {"street": 0, "frame": 1, "picture": 2}


def stream(spec: WorldSpec, split: str, what: str, index: int) -> np.random.Generator:
    """The random numbers of one street, frame or picture: independent of all others and of who draws it."""
    return np.random.default_rng(np.random.SeedSequence((spec.seed, SPLITS.index(split), _STREAM[what], index)))


def token(spec: WorldSpec, *parts) -> str:
    """32 hexadecimal digits that name something of this world."""
    text = "/".join(str(part) for part in ("world", spec.seed, *parts))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def make_frame(spec: WorldSpec, split: str, index: int) -> tuple[Frame, list[dict], list[dict]]:
    """Frame `index` of a split, its command rows, and the tags of the commands (same order)."""
    scene, place = divmod(index, spec.frames_per_scene)
    street = _street(spec, split, scene)
    rng = stream(spec, split, "frame", index)
    count = _command_count(spec.commands_per_frame, rng)
    frame = sample_frame(street, place, split, max(1, count), rng)
    rows, tags = [], []
    for number, (target, cue, query) in enumerate(choose(frame.things, frame.wanted, split, rng)):
        text = _fresh_text(query, cue, frame.things[target], rng, {row["command"] for row in rows})
        if text is not None:
            rows.append(_row(spec, split, index, number, frame, target, text))
            tags.append(_tag(frame, target, cue, query, split))
    return frame, rows, tags


@functools.lru_cache(maxsize=16)
def _street(spec: WorldSpec, split: str, scene: int) -> Street:
    return sample_street(stream(spec, split, "street", scene))


def _command_count(mean: float, rng) -> int:
    """About `mean`, one more or one less, at least 1."""
    low = int(np.floor(mean)) + int(rng.random() < mean - np.floor(mean))
    return max(1, low + int(rng.integers(-1, 2)))


def _fresh_text(query, cue, thing, rng, used: set[str]) -> str | None:
    for _ in range(8):
        text = command(query, cue, thing, rng)
        if text not in used:
            return text
    return None


def choose(things, wanted, split: str, rng) -> list[tuple[int, str, Query]]:
    """For each wanted class (target, deciding cue, query), all different.

    A class that is not there, or of which nothing can be singled out, gives way to another thing of the frame; so it
    does mostly where nothing but a rank ("the second car") would do. In val and test, things in a held-out colour come
    first now and then, asked for by that colour, so that there are enough of them to measure.
    """
    ask = functools.cache(lambda index: queries(things, index))
    held = [i for i, thing in enumerate(things) if (thing.colour, thing.kind) in HELD_OUT]
    picked: list[tuple[int, str, Query]] = []

    def options(pool):
        found = [(i, cue, query) for i in pool for cue, some in ask(i).items() for query in some]
        return [option for option in found if option not in picked and _colour_words(option[2]) < 2]

    for kind in wanted:
        found = []
        if split != "train" and rng.random() < HELD_OUT_ASKED:
            found = [option for option in options(held) if option[2].colour]
        found = found or options([i for i, thing in enumerate(things) if thing.kind == kind])
        if all(cue in ("order", "size") for _, cue, _ in found) and rng.random() > RARE_KEPT:
            found = []
        found = found or options(range(len(things)))
        if found:
            picked.append(_draw(found, rng))
    return picked


def _draw(options, rng) -> tuple[int, str, Query]:
    """A cue by its weight; then a side or relation by its weight; then a query with as few colour words as there is."""
    options = _weighed(options, lambda option: option[1], CUE_WEIGHTS, rng)
    if options[0][1] == "side":
        options = _weighed(options, lambda option: option[2].side, {"left": 0.5, "right": 0.5}, rng)
    if options[0][1] == "relation":
        options = _weighed(options, lambda option: option[2].relation, RELATION_WEIGHTS, rng)
    fewest = min(_colour_words(query) for _, _, query in options)
    options = [option for option in options if _colour_words(option[2]) == fewest]
    return options[int(rng.integers(len(options)))]


def _weighed(options, value, weights: dict[str, float], rng):
    """The options of one value, which is drawn by its weight among the values at hand."""
    values = sorted({value(option) for option in options})
    shares = np.array([weights[v] for v in values])
    chosen = values[int(rng.choice(len(values), p=shares / shares.sum()))]
    return [option for option in options if value(option) == chosen]


def _colour_words(query: Query) -> int:
    return sum(colour is not None for _, colour in ((query.kind, query.colour), *query.anchors))


def _row(spec: WorldSpec, split: str, index: int, number: int, frame: Frame, target: int, text: str) -> dict:
    thing, scene = frame.things[target], index // spec.frames_per_scene
    width, height, length = thing.size_m
    half = (np.pi / 2 - thing.yaw_rad) / 2
    return {
        "scene_token": token(spec, split, "scene", scene),
        "sample_token": token(spec, split, "frame", index),
        "translation": [
            round(100.0 * scene + thing.z_m + frame.travelled_m, 4),
            round(-thing.x_m, 4),
            round(height / 2, 4),
        ],
        "size": [round(width, 3), round(length, 3), round(height, 3)],
        "rotation": [repr(float(v)) for v in (np.cos(half), 0.0, 0.0, np.sin(half))],
        "command": text,
        "obj_name": KINDS[thing.kind].obj_name,
        "box_token": token(spec, split, "box", index, target),
        "command_token": token(spec, split, "command", index, number),
        "2d_box": list(thing.box_xywh),
        "t2c_img": image_name(split, index),
    }


def _tag(frame: Frame, target: int, cue: str, query: Query, split: str) -> dict:
    thing = frame.things[target]
    same = len(named(frame.things, thing.kind, None))
    return {
        "cue": cue,
        "same_class_distractor": same > 1,
        "n_same_class": same,
        "class": thing.kind,
        "colour": thing.colour,
        "side": "left" if centre_x(thing) < 0.5 else "right",
        "compositional": split != "train" and (thing.colour, thing.kind) in HELD_OUT,
        "query": query.as_json(),
        "target": target,
    }


def image_name(split: str, index: int) -> str:
    """File name of a frame; all commands of a frame share the file."""
    return f"img_{split}_{index}.jpg"


def picture(spec: WorldSpec, frame: Frame, split: str, index: int) -> np.ndarray:
    """The frame as (h, w, 3) uint8 RGB."""
    return draw_frame(frame, spec.stored_wh, stream(spec, split, "picture", index))


def write_frame(folder: Path, spec: WorldSpec, split: str, index: int) -> dict:
    """Write one frame's picture below `folder`; return its rows, tags and things."""
    frame, rows, tags = make_frame(spec, split, index)
    (folder / image_name(split, index)).write_bytes(jpeg_bytes(picture(spec, frame, split, index)))
    things = {token(spec, split, "frame", index): [describe(thing) for thing in frame.things]}
    return {
        "rows": rows,
        "tags": {row["command_token"]: tag for row, tag in zip(rows, tags, strict=True)},
        "things": things,
    }
