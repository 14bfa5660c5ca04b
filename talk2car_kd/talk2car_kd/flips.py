"""Left and right in a command: which side it names, and its mirror image.

Mirroring a frame mirrors its language: "the red car on the left" becomes "the red car on the right". Only whole words
are swapped (a substring swap makes "bright" into "bleft", a bug several published code bases share), and only where the
word surely names a side. "stop right behind the bus", "all right" and "he has left the road" name none; a command with
such a word is not flipped at all. The rules look at the neighbours of the word and treat both words alike, so that the
mirror of a mirror is the command itself.

The lists were checked on Talk2Car's 3610 val and test commands: "right" before a word such as *behind* or *here* is a
side after *the*, *our*, *turn* ... (94 times) and an adverb otherwise (43 times).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

SIDE_WORD = re.compile(r"\b(left|right)(s|most|hand|wards?)?\b", re.IGNORECASE)
NEIGHBOUR = re.compile(r"[a-z']+", re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# After these it is a side: "on the right behind", "turn right after", "to your left".
SIDE_AFTER = _words("the our your my his her their its a next on to far turn turns turned turning")
# Before these it is a side: "the van in that left lane".
SIDE_BEFORE = _words("lane lanes side hand turn turns corner curb kerb")
# Before these, and after none of the above, "right" is an adverb: "right behind the bus", "right now".
ADVERB_BEFORE = _words(
    "now away there here behind next in front before after beside by at up "
    "ahead across over under outside inside into onto past where when as between along alongside around within "
    "against about then off out underneath beyond down"
)
# After these it is the verb, the adjective or a filler: "all right", "the car that left", "the only one left".
NO_SIDE_AFTER = _words(
    "all alright has have had having just i you he she it we they who that which you're that's "
    "one spot spots space place room time"
)
# The car's own way, not where the object is: "turn left", "take a right".
TURNS = _words("turn turns turned turning")
TAKES = _words("take takes taking make makes making hang")


class _Word(NamedTuple):
    match: re.Match
    before: tuple[str, str]  # the two words before it, the nearest last; "" where there is none
    after: str  # the next word, "" at the end of a clause


def flip_command(text: str) -> str | None:
    """The command as the mirrored frame needs it, or None if it must not be mirrored.

    Whole words left/right (also -s, -most, -hand, -ward) change places, their case kept; a command without them is
    returned as it is. None when one of them may name no side (an adverb, the verb, mixed case such as "LeFt"): such a
    row is shown unflipped. Flipping twice gives the command back exactly.
    """
    if not all(_is_side(word) for word in _side_words(text)):
        return None
    return SIDE_WORD.sub(_mirrored, text)


def side_of(text: str) -> str | None:
    """The side the command gives the object: "left", "right", "both", or None.

    Adverbs and the verb do not count, nor does the car's own turn ("turn left", "take a right", "the left turn").
    """
    sides = {word.match[1].lower() for word in _side_words(text) if _is_side(word) and not _is_turn(word)}
    return "both" if len(sides) == 2 else next(iter(sides), None)


def _side_words(text: str) -> Iterator[_Word]:
    for match in SIDE_WORD.finditer(text):
        before = NEIGHBOUR.findall(text[: match.start()].lower())[-2:]
        after = NEIGHBOUR.match(text[match.end() :].lstrip(" -").lower())
        yield _Word(match, ("", "", *before)[-2:], after[0] if after else "")


def _is_side(word: _Word) -> bool:
    """Judged by the neighbours alone, never by which of the two words it is: so a mirrored command is judged alike."""
    stem, suffix = word.match[1], word.match[2]
    if stem not in (stem.lower(), stem.upper(), stem.capitalize()):
        return False
    if suffix or word.after in SIDE_BEFORE or word.before[1] in SIDE_AFTER:
        return True
    return word.before[1] not in NO_SIDE_AFTER and word.after not in ADVERB_BEFORE


def _is_turn(word: _Word) -> bool:
    takes = word.before[0] in TAKES and word.before[1] in {"a", "the"}
    return word.before[1] in TURNS or word.after in {"turn", "turns"} or (takes and word.after not in SIDE_BEFORE)


def _mirrored(match: re.Match) -> str:
    stem, suffix = match[1], match[2] or ""
    other = "right" if stem.lower() == "left" else "left"
    return (other.upper() if stem.isupper() else other.capitalize() if stem[0].isupper() else other) + suffix
