"""The key=value task: lines of keys and numbers, then lookups; the densest supervision of content matching."""

from random import Random

from ..chat import END_OF_TEXT
from .facts import draw_keys, draw_number
from .segments import ANSWER_WEIGHT, FRAME_WEIGHT, NO_WEIGHT, Segment, Tokens
from .source import Source

_LINE_TOKENS = 9
_MOST_LINES = 120


def key_value(source: Source, rng: Random, length: int) -> Tokens:
    """A quarter to under a half of the tokens are lines, the others lookups of random keys among them."""
    count = max(3, int(length * rng.uniform(0.25, 0.45) / _LINE_TOKENS))
    keys = draw_keys(rng, min(count, _MOST_LINES), source.held_out)
    lines = [(key, draw_number(rng, source.held_out)) for key in keys]
    between = rng.choice([" = ", ": ", " -> "])
    segments = [Segment(END_OF_TEXT, NO_WEIGHT)]
    for key, value in lines:
        segments += _line(key + between, value, NO_WEIGHT)
    segments.append(Segment("\n", FRAME_WEIGHT))
    used = source.encoder.size(segments)
    while used < length - 10:
        key, value = rng.choice(lines)
        lookup = _line(key + between, value, ANSWER_WEIGHT)
        segments += lookup
        used += source.encoder.size(lookup)
    return source.encoder.pack(segments)


def _line(start: str, value: str, weight: float) -> list[Segment]:
    return [Segment(start, FRAME_WEIGHT), Segment(value, weight), Segment("\n", FRAME_WEIGHT)]
