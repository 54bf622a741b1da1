"""What the tests share: one thread, a tokenizer on stand-in text, tiny plans."""

from pathlib import Path

import pytest
import torch

from coppice_training.data.books import Books, stand_in_books
from coppice_training.data.segments import Encoder
from coppice_training.data.source import Source
from coppice_training.tokenizer import load_tokenizer
from coppice_training.train.plan import read_plan, sight_plan, text_plan

REPOSITORY = Path(__file__).parents[2]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def books() -> Books:
    return stand_in_books(seed=3)


@pytest.fixture(scope="session")
def tokenizer():
    """The shipped one: what the models and the evaluation sets are made with."""
    return load_tokenizer(REPOSITORY / "models" / "coppice-recall" / "tokenizer.json")


@pytest.fixture(scope="session")
def source(tokenizer, books) -> Source:
    return Source(Encoder(tokenizer), books)


@pytest.fixture(scope="session")
def held_out(tokenizer, books) -> Source:
    return Source(Encoder(tokenizer), books, held_out=True)


@pytest.fixture(scope="session")
def tiny_text_plan(tokenizer):
    return text_plan(read_plan("smoke-text", tokenizer.get_vocab_size()))


@pytest.fixture(scope="session")
def tiny_sight_plan(tokenizer):
    return sight_plan(read_plan("smoke-sight", tokenizer.get_vocab_size()))
