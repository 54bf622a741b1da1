"""The tasks without questions: book text, and a span of it (or of shuffled words) over and over."""

from random import Random

from ..chat import END_OF_TEXT
from .segments import COPY_WEIGHT, NO_WEIGHT, SHUFFLED_WEIGHT, TEXT_WEIGHT, Segment, Tokens
from .source import Source

_CHARS_PER_TOKEN = 5
"""More than the tokenizer packs on average, so that a chunk is seldom too short."""


def book_text(source: Source, rng: Random, length: int) -> Tokens:
    """A piece of a book."""
    chunk = source.books.chunk(rng, length * _CHARS_PER_TOKEN)
    return source.encoder.pack([Segment(END_OF_TEXT, NO_WEIGHT), Segment(chunk, TEXT_WEIGHT)])


def repeat(source: Source, rng: Random, length: int) -> Tokens:
    """A span of an eighth to a third of the length, repeated to the end: only the repetitions can be learnt."""
    span = rng.randint(length // 8, length // 3)
    text, first_weight = source.books.chunk(rng, 4 * span), TEXT_WEIGHT
    words = text.split(" ")
    if rng.random() < 0.6:
        rng.shuffle(words)
        text, first_weight = " ".join(words), SHUFFLED_WEIGHT
    ids = list(source.encoder.ids(text))[:span]
    tokens = Tokens([source.encoder.end_of_text], [NO_WEIGHT])
    while len(tokens.ids) < length:
        tokens.weights.extend([first_weight if len(tokens.ids) == 1 else COPY_WEIGHT] * len(ids))
        tokens.ids.extend(ids)
    return tokens
