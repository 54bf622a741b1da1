"""Byte-level BPE tokenizer of the coppice models: single digits, procedural words cheap to write."""

import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .chat import SPECIAL_TOKENS
from .data import vocabulary as words
from .data.books import Books
from .errors import TrainingError

_FEWEST_ENTRIES = 256 + len(SPECIAL_TOKENS)


def train_tokenizer(books: Books, num_entries: int, seed: int = 1) -> Tokenizer:
    """A tokenizer of at most `num_entries` entries; the special tokens have the ids 0 to 3."""
    if num_entries < _FEWEST_ENTRIES:
        raise TrainingError(f"expected a vocabulary of at least {_FEWEST_ENTRIES} entries, got {num_entries}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Digit by digit: every number of four digits has the same length, and none is a token of its own.
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_entries,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(books, random.Random(seed)), trainer)
    return tokenizer


def load_tokenizer(file: Path) -> Tokenizer:
    """Reads a tokenizer.json whose special tokens are the coppice models'; raises TrainingError otherwise."""
    if not file.is_file():
        raise TrainingError(f"--tokenizer: expected a tokenizer.json, got {file}")
    tokenizer = Tokenizer.from_file(str(file))
    ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    if ids != list(range(len(SPECIAL_TOKENS))):
        raise TrainingError(f"{file}: expected {', '.join(SPECIAL_TOKENS)} as ids 0 to 3, got {ids}")
    return tokenizer


def _corpus(books: Books, rng: random.Random) -> Iterator[str]:
    """Book text, and the procedural words so often that each becomes one or two tokens."""
    for _ in range(1200):
        yield books.chunk(rng, 2000)
    attributes = [word for text in words.NUMBER_ATTRIBUTES + words.WORD_ATTRIBUTES for word in text.split()]
    spaced = words.ADJECTIVES + words.NOUNS + words.IDENTIFIERS + attributes
    listed = [" " + word for word in spaced] + words.CODE_WORDS + words.IDENTIFIERS
    for _ in range(200):
        yield from listed
    templates = words.QUESTIONS + words.NUMBER_STATEMENTS + words.WORD_STATEMENTS + words.INTRODUCTIONS
    templates += words.SYSTEM_PROMPTS + words.COPY_REQUESTS + words.REPLACE_REQUESTS
    for _ in range(300):
        yield from templates
    for role in ("user", "assistant", "system", "\n\n"):
        for _ in range(3000):
            yield role
