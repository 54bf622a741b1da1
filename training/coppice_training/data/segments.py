"""Texts in pieces, each with the weight that its tokens have in the loss, and how they become token ids."""

from functools import lru_cache
from typing import NamedTuple

from tokenizers import Tokenizer

from ..chat import END_OF_TEXT

TEXT_WEIGHT = 0.5
"""Book text."""
FRAME_WEIGHT = 0.15
"""What the templates say anyway: roles, questions, the words around a value."""
ANSWER_WEIGHT = 4.0
"""Answers that stand in the text before them."""
COPY_WEIGHT = 1.0
"""A text written again."""
SOURCE_WEIGHT = 0.3
"""The text that is to be copied."""
SHUFFLED_WEIGHT = 0.05
"""Shuffled words on their first occurrence: nearly unpredictable."""
NO_WEIGHT = 0.0
"""Values where they are stated, which nobody can predict."""

_CACHED_CHARS = 200


class Segment(NamedTuple):
    """A piece of text that is tokenized on its own."""

    text: str
    weight: float


class Tokens(NamedTuple):
    """Token ids and as many loss weights; weights[i] counts when ids[i] is the token to be predicted."""

    ids: list[int]
    weights: list[float]


class Encoder:
    """A tokenizer without special handling that remembers short texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end_of_text: int = tokenizer.token_to_id(END_OF_TEXT)

        @lru_cache(maxsize=200_000)
        def cached(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

        self._cached = cached

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`."""
        if len(text) > _CACHED_CHARS:
            return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
        return self._cached(text)

    def count(self, text: str) -> int:
        """Tokens of `text`."""
        return len(self.ids(text))

    def size(self, segments: list[Segment]) -> int:
        """Tokens of all segments."""
        return sum(self.count(segment.text) for segment in segments)

    def pack(self, segments: list[Segment]) -> Tokens:
        """The segments' ids, one after the other."""
        tokens = Tokens([], [])
        for text, weight in segments:
            ids = self.ids(text)
            tokens.ids.extend(ids)
            tokens.weights.extend([weight] * len(ids))
        return tokens
