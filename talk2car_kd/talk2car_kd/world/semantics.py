"""What a command means: a query over the things in view, and the test that it has exactly one answer.

A query names a class and may add a colour, a side, a relation to one or two other things, or a rank. Its meaning:

- side: the box centre lies in the left (right) half of the frame.
- next to: less than 2 m of ground between the two. left of / right of: smaller / larger x of the box centre.
- behind / in front of: farther from / nearer to us, with boxes that overlap in x. between: centre x between two others.
- rank: the n-th by distance ahead, by x, or by box area, among those that fit the rest.

`answers` applies these definitions. `is_clear` asks more, so that nobody could argue about the answer: the right thing
must fit with room to spare, and nothing else may fit even when every bound is loosened.
"""

from collections import Counter
from dataclasses import dataclass, replace

from .spec import FRAME_WH
from .things import Thing

CUES = ("class", "colour", "side", "relation", "order", "size")
RELATIONS = ("next to", "left of", "right of", "behind", "in front of", "between")
RANKS = ("nearest", "farthest", "leftmost", "rightmost", "biggest")
NEXT_TO_M = {-1: 1.5, 0: 2.0, 1: 3.4}  # ground gap of "next to": strict, as defined, loose
REACH_M = {
    "next to": 1.5,
    "left of": 4.0,
    "right of": 4.0,
    "behind": 16.0,
    "in front of": 16.0,
    "between": 9.0,
}  # strict


@dataclass(frozen=True)
class Query:
    """A referring expression before it is put into words; `rank` is (what, place) with place from 1."""

    kind: str
    colour: str | None = None
    side: str | None = None
    relation: str | None = None
    anchors: tuple[tuple[str, str | None], ...] = ()
    rank: tuple[str, int] | None = None

    def as_json(self) -> dict:
        """Plain JSON values."""
        anchors = [{"class": kind, "colour": colour} for kind, colour in self.anchors]
        rank = list(self.rank) if self.rank else None
        return {
            "class": self.kind,
            "colour": self.colour,
            "side": self.side,
            "relation": self.relation,
            "anchors": anchors,
            "rank": rank,
        }


def centre_x(thing: Thing) -> float:
    """x of the box centre as a share of the frame's width."""
    return thing.centre_x / FRAME_WH[0]


def ground_gap_m(a: Thing, b: Thing) -> float:
    """Metres of ground between the footprints of two things."""
    half_a, half_b = a.halves_m, b.halves_m
    x = max(0.0, abs(a.x_m - b.x_m) - half_a[0] - half_b[0])
    z = max(0.0, abs(a.z_m - b.z_m) - half_a[1] - half_b[1])
    return (x * x + z * z) ** 0.5


def _boxes_overlap_in_x(a: Thing, b: Thing, slack: int) -> bool:
    reach = (a.box_xywh[2] + b.box_xywh[2]) / 2 * {-1: 0.7, 0: 1.0, 1: 1.5}[slack]
    return abs(centre_x(a) - centre_x(b)) * FRAME_WH[0] < reach


def on_side(thing: Thing, side: str, slack: int = 0) -> bool:
    """Whether the thing is on this side; slack -1 asks for 5 % of the width beyond the middle, +1 forgives 3 %."""
    beyond = (0.5 - centre_x(thing)) * (1 if side == "left" else -1)
    return beyond > {-1: 0.05, 0: 0.0, 1: -0.03}[slack]


def related(thing: Thing, relation: str, anchors, slack: int = 0) -> bool:
    """Whether the relation holds between the thing and its anchors."""
    margin = {-1: 0.02, 0: 0.0, 1: -0.015}[slack]
    if relation == "between":
        low, high = sorted(centre_x(a) for a in anchors)
        return low + margin < centre_x(thing) < high - margin
    anchor = anchors[0]
    if slack < 0 and ground_gap_m(thing, anchor) > REACH_M[relation]:
        return False
    if relation == "next to":
        return ground_gap_m(thing, anchor) < NEXT_TO_M[slack]
    if relation in ("left of", "right of"):
        sign = 1 if relation == "left of" else -1
        return (centre_x(anchor) - centre_x(thing)) * sign > margin
    sign = 1 if relation == "behind" else -1
    farther = (thing.z_m - anchor.z_m) * sign > {-1: 2.0, 0: 0.0, 1: -1.0}[slack]
    return farther and _boxes_overlap_in_x(thing, anchor, slack)


def named(things, kind: str, colour: str | None) -> list[int]:
    """Indices of the things of a class (and colour)."""
    return [i for i, t in enumerate(things) if t.kind == kind and colour in (None, t.colour)]


_RANK_VALUE = {
    "nearest": lambda t: t.z_m,
    "farthest": lambda t: -t.z_m,
    "leftmost": centre_x,
    "rightmost": lambda t: -centre_x(t),
    "biggest": lambda t: -float(t.box_xywh[2] * t.box_xywh[3]),
}


def _fitting(query: Query, things, slack: int) -> list[int]:
    anchors = [named(things, *anchor) for anchor in query.anchors]
    if any(len(found) != 1 for found in anchors):
        return []
    anchor_indices = [found[0] for found in anchors]
    found = [i for i in named(things, query.kind, query.colour) if i not in anchor_indices]
    if query.side:
        found = [i for i in found if on_side(things[i], query.side, slack)]
    if query.relation:
        found = [i for i in found if related(things[i], query.relation, [things[a] for a in anchor_indices], slack)]
    return found


def answers(query: Query, things) -> list[int]:
    """Indices of all things that the query fits, by the definitions of the header."""
    found = _fitting(query, things, 0)
    if query.rank is None:
        return found
    what, place = query.rank
    ordered = sorted(found, key=lambda i: _RANK_VALUE[what](things[i]))
    return ordered[place - 1 : place]


def is_clear(query: Query, things, target: int) -> bool:
    """Whether the target is the query's one answer beyond argument (see the header)."""
    if answers(query, things) != [target]:
        return False
    strict, loose = _fitting(query, things, -1), _fitting(query, things, 1)
    if query.rank is None:
        return strict == [target] and loose == [target]
    return strict == loose and _stands_out(query, things, strict, target)


def _stands_out(query: Query, things, found, target: int) -> bool:
    what, _ = query.rank
    value = _RANK_VALUE[what]
    for other in (i for i in found if i != target):
        a, b = value(things[target]), value(things[other])
        if what in ("leftmost", "rightmost"):
            apart = abs(a - b) > 0.04
        else:
            ratio = max(abs(a), abs(b)) / max(1e-6, min(abs(a), abs(b)))
            apart = ratio > (1.5 if what == "biggest" else 1.16)
        if not apart:
            return False
    return True


def anchor_names(things) -> dict[int, tuple[str, str | None]]:
    """For every thing that class, or class and colour, single out: that name."""
    kinds = Counter(thing.kind for thing in things)
    pairs = Counter((thing.kind, thing.colour) for thing in things)
    names = {}
    for index, thing in enumerate(things):
        if kinds[thing.kind] == 1:
            names[index] = (thing.kind, None)
        elif pairs[thing.kind, thing.colour] == 1:
            names[index] = (thing.kind, thing.colour)
    return names


def queries(things, target: int) -> dict[str, list[Query]]:
    """All clear queries for a thing by the cue that decides them; a cue is listed only where the simpler ones fail.

    The simpler ones are: class alone, and class with colour. Where class alone does, only "class" is listed.
    """
    thing = things[target]
    if len(named(things, thing.kind, None)) == 1:
        return {"class": [Query(thing.kind)]}
    found: dict[str, list[Query]] = {cue: [] for cue in CUES[1:]}
    colours = [None]
    if len(named(things, thing.kind, thing.colour)) == 1:
        found["colour"].append(Query(thing.kind, thing.colour))
    else:
        colours.append(thing.colour)
    without_colour: set[Query] = set()
    for colour in colours:
        for cue, query in _cue_queries(things, target, colour):
            plain = replace(query, colour=None) if colour else query
            if plain not in without_colour and is_clear(query, things, target):
                found[cue].append(query)
                without_colour.add(plain)
    return {cue: some for cue, some in found.items() if some}


def _cue_queries(things, target: int, colour: str | None):
    """(cue, query) of every kind that could hold for the target; most are not clear."""
    thing = things[target]
    kind, sides = thing.kind, [side for side in ("left", "right") if on_side(thing, side, -1)]
    for side in sides:
        yield "side", Query(kind, colour, side)
    for side in (None, *sides):
        for place in (1, 2, 3):
            yield "order", Query(kind, colour, side, rank=("nearest", place))
    for what in ("leftmost", "rightmost", "farthest"):
        yield "order", Query(kind, colour, rank=(what, 1))
    for what in ("nearest", "biggest") if kind != "adult" else ("nearest",):  # nobody says "the biggest woman"
        yield "size", Query(kind, colour, rank=(what, 1))
    yield from (("relation", query) for query in _relation_queries(things, target, colour))


def _relation_queries(things, target: int, colour: str | None):
    thing = things[target]
    names = [(things[i], name) for i, name in anchor_names(things).items() if i != target]
    for relation in RELATIONS[:-1]:
        for anchor, name in names:
            if related(thing, relation, (anchor,), -1):
                yield Query(thing.kind, colour, relation=relation, anchors=(name,))
    for i, (first, name) in enumerate(names):
        for second, other in names[i + 1 :]:
            if related(thing, "between", (first, second), -1) and _stand_close(first, second, thing):
                yield Query(thing.kind, colour, relation="between", anchors=(name, other))


def _stand_close(first: Thing, second: Thing, thing: Thing) -> bool:
    return max(ground_gap_m(first, thing), ground_gap_m(second, thing)) < REACH_M["between"]
