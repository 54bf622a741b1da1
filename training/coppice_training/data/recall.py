"""The recall task: facts strewn into book text, then a conversation of questions about them."""

from random import Random

from ..chat import END_OF_TEXT
from ..errors import TrainingError
from .facts import Fact, draw_facts
from .segments import FRAME_WEIGHT, NO_WEIGHT, TEXT_WEIGHT, Segment, Tokens
from .source import Source, answer, turn
from .vocabulary import INTRODUCTIONS, SYSTEM_PROMPTS

FACTS_BY_LENGTH = {256: (3, 7), 512: (6, 14), 1024: (8, 26), 2048: (10, 44), 4096: (12, 64), 8192: (16, 90)}
"""Tokens of a text -> fewest and most facts in it."""

_QUESTION_SHARE = {256: 0.5, 512: 0.45, 1024: 0.35, 2048: 0.28, 4096: 0.24, 8192: 0.2}
_TURN_TOKENS = 34
"""At most what a question and its answer take."""
_CLOSE_TOKENS = 14
"""A gap that no sentence is looked for to fill."""
_SYSTEM_SHARE = 0.3


def document(source: Source, rng: Random, facts: list[Fact], num_tokens: int) -> list[Segment]:
    """About `num_tokens` of book sentences in their order, with the facts at random places between them."""
    encoder = source.encoder
    filler = _filler(source, rng, num_tokens - sum(encoder.size(fact.segments()) + 1 for fact in facts))
    places: list[list[Fact]] = [[] for _ in range(len(filler) + 1)]
    for fact in facts:
        places[rng.randrange(len(places))].append(fact)
    segments: list[Segment] = []
    for index, here in enumerate(places):
        for fact in here:
            first, *others = fact.segments()
            segments += [Segment(" " + first.text if segments else first.text, first.weight), *others]
        if index < len(filler):
            segments.append(Segment(" " + filler[index] if segments else filler[index], TEXT_WEIGHT))
    return segments


def _filler(source: Source, rng: Random, num_tokens: int) -> list[str]:
    """Consecutive sentences of up to about `num_tokens` together; a long one is skipped for others that fit."""
    sentences: list[str] = []
    left = num_tokens
    index = rng.randrange(len(source.books.sentences))
    while left > 0:
        sentence = source.books.sentence(index)
        index += 1
        cost = source.encoder.count(" " + sentence)
        if cost <= left + 8:
            sentences.append(sentence)
            left -= cost
            continue
        if left < _CLOSE_TOKENS:
            break
        index += rng.randrange(50)
        left -= 1
    return sentences


def recall(source: Source, rng: Random, length: int) -> Tokens:
    """One document, as many questions as fit: many answers to learn from for each text that is read."""
    if length not in FACTS_BY_LENGTH:
        raise TrainingError(f"recall: expected a length of {', '.join(map(str, FACTS_BY_LENGTH))}, got {length}")
    fewest, most = FACTS_BY_LENGTH[length]
    facts = draw_facts(rng, rng.randint(fewest, most), source.held_out)
    share = _QUESTION_SHARE[length] * rng.uniform(0.6, 1.15)
    segments = [Segment(END_OF_TEXT, NO_WEIGHT)]
    if rng.random() < _SYSTEM_SHARE:
        segments += turn("system", [Segment(rng.choice(SYSTEM_PROMPTS), FRAME_WEIGHT)])
    text = document(source, rng, facts, int(length * (1 - share)) - 30)
    asked = facts[:]
    rng.shuffle(asked)
    opening = Segment(rng.choice(INTRODUCTIONS) + "\n\n", FRAME_WEIGHT)
    question = Segment(asked[0].question(rng), FRAME_WEIGHT)
    segments += turn("user", [opening, *text, Segment("\n\n", FRAME_WEIGHT), question]) + answer(asked[0].value)
    used = source.encoder.size(segments)
    number = 1
    while used < length - _TURN_TOKENS:
        fact = asked[number] if number < len(asked) else rng.choice(asked)
        number += 1
        exchange = turn("user", [Segment(fact.question(rng), FRAME_WEIGHT)]) + answer(fact.value)
        segments += exchange
        used += source.encoder.size(exchange)
    return source.encoder.pack(segments)
