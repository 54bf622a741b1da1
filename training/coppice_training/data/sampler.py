"""Samples of an exact length from any task, and the spans in them that are answers."""

from random import Random

from ..errors import TrainingError
from .copying import copying
from .key_value import key_value
from .plain import book_text, repeat
from .recall import recall
from .segments import ANSWER_WEIGHT, Tokens
from .source import Source, Task

TASKS: dict[str, Task] = {
    "recall": recall,
    "key_value": key_value,
    "copying": copying,
    "repeat": repeat,
    "text": book_text,
}


def draw(source: Source, rng: Random, length: int, task: str) -> Tokens:
    """`length` ids and weights: what the task draws, cut at the end, or filled up with book text."""
    if task not in TASKS:
        raise TrainingError(f"expected a task of {', '.join(TASKS)}, got {task!r}")
    tokens = TASKS[task](source, rng, length)
    while len(tokens.ids) < length:
        more = book_text(source, rng, length)
        tokens.ids.extend(more.ids)
        tokens.weights.extend(more.weights)
    return Tokens(tokens.ids[:length], tokens.weights[:length])


def answer_spans(weights: list[float]) -> list[tuple[int, int]]:
    """First index and the one behind the last of every run of answer tokens."""
    spans, start = [], None
    for index, weight in enumerate([*weights, 0.0]):
        if weight == ANSWER_WEIGHT and start is None:
            start = index
        elif weight != ANSWER_WEIGHT and start is not None:
            spans.append((start, index))
            start = None
    return spans
