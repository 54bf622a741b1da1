"""What every task draws from: an encoder, books, and whether keys and numbers are the held-out ones."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ..chat import TURN_END, TURN_START
from .books import Books
from .segments import ANSWER_WEIGHT, FRAME_WEIGHT, Encoder, Segment, Tokens


@dataclass(frozen=True)
class Source:
    """Where samples come from."""

    encoder: Encoder
    books: Books
    held_out: bool = False


Task = Callable[[Source, Random, int], Tokens]
"""Draws a sample of about that many tokens; the sampler cuts or fills it to the exact length."""


def turn(role: str, content: list[Segment]) -> list[Segment]:
    """A message with the tokens around it."""
    start = Segment(f"{TURN_START}{role}\n", FRAME_WEIGHT)
    return [start, *content, Segment(TURN_END, FRAME_WEIGHT), Segment("\n", FRAME_WEIGHT)]


def answer(text: str, weight: float = ANSWER_WEIGHT) -> list[Segment]:
    """The assistant's message; to stop in time counts like the answer."""
    start = Segment(f"{TURN_START}assistant\n", FRAME_WEIGHT)
    return [start, Segment(text, weight), Segment(TURN_END, weight), Segment("\n", FRAME_WEIGHT)]
