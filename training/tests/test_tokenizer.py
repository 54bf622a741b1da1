"""Tokenizer: round trips, single digits, special tokens, refusals."""

import pytest

from coppice_training.chat import SPECIAL_TOKENS
from coppice_training.errors import TrainingError
from coppice_training.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def trained(books):
    return train_tokenizer(books, 700)


@pytest.mark.parametrize(
    "text", ["The pin of the brave owl is 4711.", "Grüße, 世界! 🦉\n\ttab", "a  b   c", "x = y * 42\n"]
)
def test_round_trip(trained, text):
    assert trained.decode(trained.encode(text, add_special_tokens=False).ids) == text


def test_digits_and_special_tokens(trained):
    assert trained.get_vocab_size() == 700
    assert len(trained.encode("4711", add_special_tokens=False).ids) == 4
    assert [trained.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert trained.encode("<|im_start|>user\n").ids[0] == 1


def test_training_is_deterministic(trained, books):
    assert train_tokenizer(books, 700).to_str() == trained.to_str()


def test_refusals(tmp_path, books, trained):
    with pytest.raises(TrainingError, match="at least 260"):
        train_tokenizer(books, 100)
    with pytest.raises(TrainingError, match="expected a tokenizer.json"):
        load_tokenizer(tmp_path / "none.json")
    other = tmp_path / "tokenizer.json"
    other.write_text(trained.to_str().replace("<image>", "<picture>"))
    with pytest.raises(TrainingError, match="as ids 0 to 3"):
        load_tokenizer(other)
