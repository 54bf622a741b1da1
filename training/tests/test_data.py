"""Samples: the same seed gives the same, answers stand in the text, weights mark exactly the answers."""

import re
from random import Random

import pytest

from coppice_training.chat import TURN_END
from coppice_training.data.books import clean, read_books, stand_in_books
from coppice_training.data.recall import FACTS_BY_LENGTH
from coppice_training.data.sampler import TASKS, answer_spans, draw
from coppice_training.data.segments import COPY_WEIGHT, Encoder
from coppice_training.data.source import Source
from coppice_training.data.vocabulary import is_reserved_key, is_reserved_number
from coppice_training.errors import TrainingError

STATED = re.compile(r"[Tt]he ([a-z ]+?) (?:of|for) the ([a-z]+ [a-z]+) is '?(\w+)'?\.")
ASKED = re.compile(
    r"(?:What is the|Tell me the|Give me the|Which) ([a-z ]+?) (?:of|for|belongs to) the ([a-z]+ [a-z]+)[?.]"
)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [256, 512, 1024])
def test_length_and_determinism(source, task, length):
    first = draw(source, Random(5), length, task)
    assert len(first.ids) == len(first.weights) == length
    assert first == draw(source, Random(5), length, task)
    assert first != draw(source, Random(6), length, task)


@pytest.mark.parametrize("length", FACTS_BY_LENGTH)
def test_recall_answers_follow_from_the_text(source, length):
    tokenizer = source.encoder.tokenizer
    for seed in range(3):
        ids, weights = draw(source, Random(seed), length, "recall")
        text = tokenizer.decode(ids, skip_special_tokens=False)
        facts = {(attribute, key): value for attribute, key, value in STATED.findall(text)}
        spans = answer_spans(weights)
        assert len(spans) >= 3
        for number, (start, end) in enumerate(spans):
            before = tokenizer.decode(ids[:start], skip_special_tokens=False)
            assert before.endswith("<|im_start|>assistant\n")
            given = tokenizer.decode(ids[start:end], skip_special_tokens=False)
            expected = facts[ASKED.findall(before)[-1]] + TURN_END
            # The last one may be cut by the end of the sample.
            assert given == expected or (number == len(spans) - 1 and end == length and expected.startswith(given))


def test_recall_weights_cover_all_answers(source):
    """Every reply of the assistant is a span: as many as there are replies."""
    ids, weights = draw(source, Random(1), 1024, "recall")
    text = source.encoder.tokenizer.decode(ids, skip_special_tokens=False)
    complete = re.findall(r"<\|im_start\|>assistant\n(\w+<\|im_end\|>)", text)
    spans = [source.encoder.tokenizer.decode(ids[a:b], skip_special_tokens=False) for a, b in answer_spans(weights)]
    assert spans[: len(complete)] == complete
    assert len(spans) - len(complete) <= 1


def test_key_value_lookups_repeat_lines(source):
    ids, weights = draw(source, Random(2), 512, "key_value")
    tokenizer = source.encoder.tokenizer
    lines = dict(re.findall(r"([a-z]+ [a-z]+)(?: = |: | -> )(\d{4})\n", tokenizer.decode(ids).split("\n\n")[0] + "\n"))
    spans = answer_spans(weights)
    assert len(spans) > 10
    for start, end in spans:
        key = re.findall(r"([a-z]+ [a-z]+)(?: = |: | -> )$", tokenizer.decode(ids[:start]))[0]
        value = tokenizer.decode(ids[start:end])
        assert lines[key] == value or end == 512


def test_copies_are_the_text_or_the_text_with_one_word_replaced(source):
    """What weighs as a copy is what the request asks for."""
    replaced = 0
    for seed in range(6):
        ids, weights = draw(source, Random(seed), 1024, "copying")
        text = source.encoder.tokenizer.decode(ids, skip_special_tokens=False)
        turns = re.findall(
            r"<\|im_start\|>user\n(.*?)<\|im_end\|>\n<\|im_start\|>assistant\n(.*?)<\|im_end\|>", text, re.S
        )
        assert turns
        for request, reply in turns:
            head, body = request.split("\n\n", 1)
            words = re.findall(r"'(\w+)'", head)
            if words:
                old, new = reversed(words) if "instead of" in head else words
                body = re.sub(rf"\b{old}\b", new, body)
                replaced += 1
            assert reply == body
        copied = sum(weight == COPY_WEIGHT for weight in weights)
        assert copied == sum(source.encoder.count(reply) + 1 for _, reply in turns)
    assert replaced > 3


def test_repeats_weigh_only_from_the_second_time(source):
    ids, weights = draw(source, Random(3), 512, "repeat")
    first = weights.index(COPY_WEIGHT)
    span = first - 1
    assert all(ids[i] == ids[i - span] for i in range(first, 512))
    assert set(weights[first:]) == {COPY_WEIGHT}


def test_training_and_evaluation_share_no_key_and_no_number(source, held_out):
    for which, expected in ((source, False), (held_out, True)):
        ids, _ = draw(which, Random(4), 1024, "recall")
        stated = STATED.findall(which.encoder.tokenizer.decode(ids))
        assert stated
        for _, key, value in stated:
            assert is_reserved_key(*key.split(" ")) == expected
            assert not value.isdigit() or is_reserved_number(value) == expected


def test_unknown_tasks_and_lengths_are_refused(source):
    with pytest.raises(TrainingError, match="expected a task of recall"):
        draw(source, Random(1), 256, "poems")
    with pytest.raises(TrainingError, match="expected a length of 256"):
        draw(source, Random(1), 300, "recall")


def test_books_are_cleaned_and_chosen_by_name(tmp_path):
    assert clean("Title\n-------\n\n“A _quiet_ day”—and so on…\n\n\nNext") == '"A quiet day"--and so on...\nNext'
    (tmp_path / "one.md").write_text("The first book has a sentence of some length. " * 3)
    (tmp_path / "two.txt").write_text("The second book has another sentence in it. " * 3)
    (tmp_path / "picture.png").write_bytes(b"")
    assert read_books(tmp_path).names == ["one.md", "two.txt"]
    assert read_books(tmp_path, skip=["one.md"]).names == ["two.txt"]
    assert read_books(tmp_path, only=["one.md"]).names == ["one.md"]
    with pytest.raises(TrainingError, match="expected a book 'three.md'"):
        read_books(tmp_path, skip=["three.md"])
    with pytest.raises(TrainingError, match="expected a folder"):
        read_books(tmp_path / "none")


def test_stand_in_text_is_deterministic(tokenizer):
    assert stand_in_books(1).texts == stand_in_books(1).texts != stand_in_books(2).texts
    assert Source(Encoder(tokenizer), stand_in_books(1)).books.sentences
