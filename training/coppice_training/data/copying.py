"""The copy task: write a text again, prose or code, word for word or with one word replaced."""

import re
from random import Random

from ..chat import END_OF_TEXT
from .segments import COPY_WEIGHT, FRAME_WEIGHT, NO_WEIGHT, SOURCE_WEIGHT, Segment, Tokens
from .source import Source, answer, turn
from .vocabulary import COPY_REQUESTS, IDENTIFIERS, NOUNS, REPLACE_REQUESTS

_CODE_SHARE = 0.25
_REPLACE_SHARE = 0.5
_SNIPPET_TOKENS = [40, 80, 120, 200, 300]


def snippet(source: Source, rng: Random, num_tokens: int) -> str:
    """Up to `num_tokens` of consecutive book sentences, or of code."""
    if rng.random() < _CODE_SHARE:
        return code(source, rng, num_tokens)
    sentences: list[str] = []
    left = num_tokens
    index = rng.randrange(len(source.books.sentences))
    while left > 0 and len(sentences) < 200:
        sentence = source.books.sentence(index)
        index += 1
        cost = source.encoder.count(" " + sentence)
        if cost > left and sentences:
            break
        sentences.append(sentence)
        left -= cost
    return " ".join(sentences)


def code(source: Source, rng: Random, num_tokens: int) -> str:
    """About `num_tokens` of Python-like lines without meaning."""
    blocks, left = [], num_tokens
    while left > 12:
        a, b, c = rng.sample(IDENTIFIERS, 3)
        form = rng.randrange(5)
        # Both numbers are drawn whatever the form: the evaluation sets depend on the order of the draws.
        factor, bound = rng.randrange(2, 99), rng.randrange(2, 99)
        block = [
            f"def {a}_{b}({c}, {a}):\n    {b} = {c} + {a}\n    return {b}\n",
            f"{a} = {b} * {factor} - {c}\n",
            f"for {a} in {b}:\n    {c} = {c} + {a}\n",
            f"if {a} > {bound}:\n    {b} = {c}\nelse:\n    {b} = {a}\n",
            f"print({a}, {b}[{c}])\n",
        ][form]
        blocks.append(block)
        left -= source.encoder.count(block)
    return "".join(blocks).rstrip("\n")


def replaceable_words(text: str) -> list[str]:
    """Lower-case words of three to nine letters, sorted."""
    return sorted(set(re.findall(r"\b[a-z]{3,9}\b", text)))


def replace_request(rng: Random, text: str, words: list[str]) -> tuple[str, str]:
    """A request to replace one of `words` everywhere, and the text after that."""
    old, new = rng.choice(words), rng.choice(NOUNS + IDENTIFIERS)
    return rng.choice(REPLACE_REQUESTS).format(x=old, y=new), re.sub(rf"\b{old}\b", new, text)


def copying(source: Source, rng: Random, length: int) -> Tokens:
    """Requests and their results until no further one fits."""
    segments = [Segment(END_OF_TEXT, NO_WEIGHT)]
    left = length - 4
    while left > 60:
        budget = min(left // 2 - 24, rng.choice(_SNIPPET_TOKENS))
        if budget < 12:
            break
        text = snippet(source, rng, budget)
        if rng.random() < _REPLACE_SHARE:
            words = replaceable_words(text)
            if not words:
                continue
            request, result = replace_request(rng, text, words)
        else:
            request, result = rng.choice(COPY_REQUESTS), text
        asked = [Segment(request + "\n\n", FRAME_WEIGHT), Segment(text, SOURCE_WEIGHT)]
        exchange = turn("user", asked) + answer(result, COPY_WEIGHT)
        cost = source.encoder.size(exchange)
        if cost > left:
            break
        segments += exchange
        left -= cost
    return source.encoder.pack(segments)
