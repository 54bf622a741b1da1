"""Made-up facts ("The pin of the brave owl is 4711.") and questions about them."""

import random
from dataclasses import dataclass

from .segments import FRAME_WEIGHT, NO_WEIGHT, Segment
from .vocabulary import (
    ADJECTIVES,
    CODE_WORDS,
    NOUNS,
    NUMBER_ATTRIBUTES,
    NUMBER_STATEMENTS,
    QUESTIONS,
    WORD_ATTRIBUTES,
    WORD_STATEMENTS,
    is_reserved_key,
    is_reserved_number,
)

_WORD_SHARE = 0.15


@dataclass(frozen=True)
class Fact:
    """An attribute of a key, its value, and the sentence that states it."""

    key: str
    attribute: str
    value: str
    template: str

    @property
    def statement(self) -> str:
        """The fact as a sentence."""
        return self.template.format(a=self.attribute, k=self.key, v=self.value)

    def segments(self) -> list[Segment]:
        """The sentence in three pieces, the value without weight."""
        before, after = self.template.split("{v}")
        start = before.format(a=self.attribute, k=self.key)
        return [Segment(start, FRAME_WEIGHT), Segment(self.value, NO_WEIGHT), Segment(after, FRAME_WEIGHT)]

    def question(self, rng: random.Random) -> str:
        """One of the ways to ask for the value."""
        return rng.choice(QUESTIONS).format(a=self.attribute, k=self.key)


def draw_number(rng: random.Random, held_out: bool, num_digits: int = 4) -> str:
    """A number from the part for training or from the one held out."""
    while True:
        digits = str(rng.randrange(10 ** (num_digits - 1), 10**num_digits))
        if is_reserved_number(digits) == held_out:
            return digits


def draw_keys(rng: random.Random, count: int, held_out: bool) -> list[str]:
    """`count` pairs of adjective and noun, no noun twice."""
    keys = []
    for noun in rng.sample(NOUNS, count):
        while True:
            adjective = rng.choice(ADJECTIVES)
            if is_reserved_key(adjective, noun) == held_out:
                break
        keys.append(f"{adjective} {noun}")
    return keys


def draw_facts(rng: random.Random, count: int, held_out: bool) -> list[Fact]:
    """`count` facts about different keys; one in seven has a word for a value, the others four digits."""
    facts = []
    for key in draw_keys(rng, count, held_out):
        if rng.random() < _WORD_SHARE:
            attribute, value = rng.choice(WORD_ATTRIBUTES), rng.choice(CODE_WORDS)
            facts.append(Fact(key, attribute, value, rng.choice(WORD_STATEMENTS)))
        else:
            attribute, value = rng.choice(NUMBER_ATTRIBUTES), draw_number(rng, held_out)
            facts.append(Fact(key, attribute, value, rng.choice(NUMBER_STATEMENTS)))
    return facts
