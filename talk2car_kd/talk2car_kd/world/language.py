"""Commands in words: a referring expression from a query, and a driver's request around it.

Wording follows the real commands: lower case, 4 to 20 words, about 11 on average, one in seven with a second sentence.
"Turn left" and "turn right" are about our own car and hardly tell where the thing is; "right behind" and "bright" hold
the letters of "right" without its meaning.
"""

import numpy as np

from . import phrases
from .figures import is_woman
from .semantics import Query, centre_x
from .spec import KINDS
from .things import Thing

WORDS_MIN, WORDS_MAX = 4, 20
TURN_SHARE, TURN_AGREES = 0.105, 0.50  # commands with "turn left/right"; how often that is also the side of the thing
OWN_SIDE_SHARE = 0.025  # "pull over on the left next to ...": again our side, not the thing's
NEAR_SHARE, NEAR_AGAIN = 0.50, 0.28  # requests with a relation word: plainly, and where the expression has one already
TWO_SENTENCES, POLITE, TAIL = 0.155, 0.38, 0.42
EXTRA_SIDE, EXTRA_COLOUR = 0.08, 0.06  # needless words where the class alone decides
BRIGHT, BRIGHT_SHARE = ("red", "orange", "yellow", "green", "blue"), 0.16


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def noun(kind: str, rng, thing: Thing | None = None) -> str:
    """A word for the class; for people and cars it agrees with how they are drawn."""
    word = _pick(rng, KINDS[kind].nouns)
    if word.startswith("{") and thing is None:
        return {"car": "car", "adult": "person"}[kind]
    if word == "{style}":
        return thing.style
    if word == "{man}":
        return _pick(rng, ("woman", "woman", "lady") if is_woman(thing.look) else ("man", "man", "guy"))
    return word


def colour_word(colour: str, kind: str, rng) -> str:
    """The colour as spoken: gray has three spellings, and some colours are called bright."""
    if colour == "gray":
        return _pick(rng, ("gray", "grey", "silver" if kind in ("car", "truck", "bus") else "grey"))
    return f"bright {colour}" if colour in BRIGHT and rng.random() < BRIGHT_SHARE else colour


def with_colour(word: str, colour: str | None, kind: str, rng) -> str:
    """Noun and colour: vehicles are "a white car", people "a person in white"."""
    if colour is None:
        return word
    spoken = colour_word(colour, kind, rng)
    if kind != "adult":
        return f"{spoken} {word}"
    return f"{word} {_pick(rng, phrases.CLOTHES).format(c=spoken)}"


def _rank_word(rank: tuple[str, int], cue: str, rng) -> str:
    what, place = rank
    if what == "nearest" and cue == "size":
        return _pick(rng, ("nearest", "closest"))
    if what == "nearest":
        return phrases.ORDINALS[place]
    return {"farthest": "last", "biggest": _pick(rng, ("biggest", "largest"))}.get(what, what)


def _state(thing: Thing, rng) -> str:
    if "parking" in thing.place and rng.random() < 0.18:
        return "parked "
    if (
        thing.place == "left lane"
        and abs(np.cos(thing.yaw_rad) + 1) < 0.2
        and thing.kind != "adult"
        and rng.random() < 0.18
    ):
        return "oncoming "
    return ""


def _side_words(thing: Thing, side: str, rng) -> str:
    if thing.place == f"{side} lane" and rng.random() < 0.5:
        return f"in the {side} lane"
    if thing.place == f"{side} sidewalk" and rng.random() < 0.35:
        return f"on the {side} sidewalk"
    return _pick(rng, phrases.SIDES).format(side=side)


def refer(query: Query, cue: str, thing: Thing, rng, *, extra_side: bool = False, extra_colour: bool = False) -> str:
    """The referring expression; the extras add a true but needless side or colour."""
    colour = query.colour or (thing.colour if extra_colour else None)
    side = query.side or (("left" if centre_x(thing) < 0.5 else "right") if extra_side else None)
    rank = f"{_rank_word(query.rank, cue, rng)} " if query.rank else ""
    article = "the " if rank or rng.random() < 0.68 else _pick(rng, ("that ", "that ", "this "))
    phrase = article + rank + _state(thing, rng) + with_colour(noun(query.kind, rng, thing), colour, query.kind, rng)
    if side:
        phrase += " " + _side_words(thing, side, rng)
    if query.relation:
        anchors = ["the " + with_colour(noun(kind, rng), colour, kind, rng) for kind, colour in query.anchors]
        words = _pick(rng, phrases.RELATIONS[query.relation])
        phrase += " " + words.format(a=anchors[0], b=anchors[-1])
    return phrase


def _request(thing: Thing, has_relation: bool, rng) -> str:
    """A request with a hole {np} for the referring expression."""
    for share, requests in ((TURN_SHARE, phrases.TURNS), (OWN_SIDE_SHARE, phrases.OWN_SIDE)):
        if rng.random() < share:
            sides = ("left", "right") if centre_x(thing) < 0.5 else ("right", "left")
            return _pick(rng, requests).replace("{side}", sides[int(rng.random() >= TURN_AGREES)])
    if rng.random() < (NEAR_AGAIN if has_relation else NEAR_SHARE):
        return _pick(rng, phrases.NEAR)
    if thing.kind == "adult":
        return _pick(rng, phrases.PERSON)
    return _pick(rng, phrases.STATIC if thing.kind in ("trafficcone", "barrier") else phrases.VEHICLE)


def _remark(thing: Thing, rng) -> str:
    if thing.kind != "adult" or rng.random() < 0.4:
        return _pick(rng, phrases.AFTER)
    he, him = ("she", "her") if is_woman(thing.look) else ("he", "him")
    return _pick(rng, phrases.AFTER_PERSON).format(he=he, him=him)


def _sentences(core: str, thing: Thing, rng) -> str:
    """The request alone, or with a remark before or after it; a full stop at the end more often than not."""
    if rng.random() < TWO_SENTENCES:
        core = f"{_pick(rng, phrases.BEFORE)}. {core}" if rng.random() < 0.5 else f"{core}. {_remark(thing, rng)}"
    return core + ("." if rng.random() < 0.6 else "")


def command(query: Query, cue: str, thing: Thing, rng: np.random.Generator) -> str:
    """A command of 4 to 20 words for a query about this thing.

    The length is kept by drawing again; where that fails, a plain request is made, which always fits.
    """
    for _ in range(30):
        spare = cue == "class"
        extra_side, extra_colour = spare and rng.random() < EXTRA_SIDE, spare and rng.random() < EXTRA_COLOUR
        phrase = refer(query, cue, thing, rng, extra_side=extra_side, extra_colour=extra_colour)
        core = _request(thing, query.relation is not None, rng).format(np=phrase)
        if rng.random() < POLITE:
            core = f"{_pick(rng, phrases.PREFIXES)} {core}"
        if rng.random() < TAIL:
            core = f"{core} {_pick(rng, phrases.TAILS)}"
        text = _sentences(core, thing, rng)
        if WORDS_MIN <= len(text.split()) <= WORDS_MAX:
            return text
    return f"please go to {refer(query, cue, thing, rng)}"
