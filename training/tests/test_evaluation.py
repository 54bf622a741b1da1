"""Evaluation sets: deterministic, in the form of the shipped ones, which the same seeds make again; scores."""

import json
from random import Random

import pytest

from coppice_training.data.facts import draw_facts
from coppice_training.errors import TrainingError
from coppice_training.evaluation.intervals import describe, wilson
from coppice_training.evaluation.jsonl import read_items
from coppice_training.evaluation.scores import compare_outputs, read_reference, write_reference
from coppice_training.evaluation.sight_sets import write_sight_set
from coppice_training.evaluation.text_scores import score_text
from coppice_training.evaluation.text_sets import write_text_sets

from .conftest import REPOSITORY

SETS = ["recall/recall.jsonl", "recall/turns.jsonl", "recall/long.jsonl", "copy/copy.jsonl", "books/books.jsonl"]
SHIPPED = REPOSITORY / "eval"


@pytest.fixture(scope="module")
def written(tmp_path_factory, held_out):
    folder = tmp_path_factory.mktemp("eval")
    write_text_sets(held_out, folder, seed=9, scale=0.05)
    return folder


@pytest.mark.parametrize("name", SETS)
def test_text_sets_have_the_form_of_the_shipped_ones(written, name):
    ours, shipped = read_items(written / name), read_items(SHIPPED / name)
    kinds = {key: type(value) for key, value in shipped[0].items()}
    for item in ours:
        assert {key: type(value) for key, value in item.items()} == kinds
        assert item["task"] in {other["task"] for other in shipped}
    assert len({item["id"] for item in ours}) == len(ours)
    assert {item["id"] for item in ours} <= {item["id"] for item in shipped}


def test_text_sets_are_deterministic(written, tmp_path, held_out):
    write_text_sets(held_out, tmp_path, seed=9, scale=0.05)
    assert all((written / name).read_bytes() == (tmp_path / name).read_bytes() for name in SETS)
    write_text_sets(held_out, tmp_path, seed=10, scale=0.05)
    assert (written / SETS[0]).read_bytes() != (tmp_path / SETS[0]).read_bytes()


@pytest.mark.parametrize("name", SETS[:3])
def test_questions_can_be_answered_from_the_text(written, name):
    for item in read_items(written / name):
        first = item["messages"][0]["content"]
        assert first.count(item["needle"]) == 1
        assert item["answer"] in item["needle"]
        assert item["bucket"] * 0.88 < item["context_tokens"] <= item["bucket"] - 12
        assert first.index(item["needle"]) / len(first) == pytest.approx(item["depth"], abs=0.25)
        for question, known in zip(item["messages"][::2], item["messages"][1::2], strict=False):
            assert question["role"] == "user" and known["content"] in first


@pytest.mark.parametrize(("name", "fewest", "most"), [("recall", 4, 8), ("long", 12, 64)])
def test_seed_101_draws_the_facts_of_the_shipped_sets(name, fewest, most):
    """The books are not in the repository, but the first item's facts are drawn before any book text."""
    rng = Random(101)
    facts = draw_facts(rng, rng.randint(fewest, most), held_out=True)
    item = read_items(SHIPPED / "recall" / f"{name}.jsonl", limit=1)[0]
    assert item["n_facts"] == len(facts)
    assert all(fact.statement in item["messages"][0]["content"] for fact in facts)


def test_seed_303_draws_the_shipped_images(tmp_path):
    assert write_sight_set(tmp_path, seed=303) == 198
    shipped = SHIPPED / "sight"
    assert (tmp_path / "sight" / "sight.jsonl").read_bytes() == (shipped / "sight.jsonl").read_bytes()
    drawn = sorted((tmp_path / "sight" / "images").iterdir())
    assert len(drawn) == 99
    assert all(file.read_bytes() == (shipped / "images" / file.name).read_bytes() for file in drawn)


def test_sight_answers_follow_from_the_objects(tmp_path):
    write_sight_set(tmp_path, seed=5, per_kind=3)
    for item in read_items(tmp_path / "sight" / "sight.jsonl"):
        question, objects, answer = item["messages"][0]["content"][1]["text"], item["objects"], item["answer"]
        if item["kind"] == "count":
            words = question.split()
            counted = [thing for thing in objects if words[2] in ("objects", thing["color"])]
            assert answer == str(len(counted))
        if item["kind"] in ("color_at", "shape"):
            place = question.split("at the ")[1].rstrip("?")
            thing = next(thing for thing in objects if thing["place"] == place)
            assert answer == (thing["color"] if item["kind"] == "color_at" else thing["kind"])
        if item["kind"] == "exist":
            color, kind = question.rstrip("?").split()[-2:]
            assert (answer == "yes") == any(thing["color"] == color and thing["kind"] == kind for thing in objects)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(50, 50, 0.929, 1.0), (33, 40, 0.6805, 0.9126), (0, 60, 0.0, 0.060)]
)
def test_wilson(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-4)


def test_wilson_of_nothing():
    assert describe(39, 40) == "97.5 % (87-100 %, n=40)"
    with pytest.raises(ValueError, match="expected 0 <= right <= count"):
        wilson(0, 0)


def test_the_shipped_model_scores_as_its_reference_says():
    """A few items of each kind; all of them: `python -m coppice_training score --compare`."""
    lines: list[str] = []
    model, reference = REPOSITORY / "models" / "coppice-recall", SHIPPED / "reference-coppice-recall.json"
    scores, outputs = score_text(model, SHIPPED, ["recall", "copy"], limit=3, log=lines.append, every=17)
    assert compare_outputs(outputs, reference) == (6, [])
    assert scores["recall"]["all"] == [1.0, 3]
    assert any("recall all: 100.0 % (44-100 %, n=3)" in line for line in lines)


def test_references_merge_and_compare(tmp_path):
    file = tmp_path / "reference.json"
    write_reference(file, {"recall": {"all": [1.0, 1]}}, {"a": "1"})
    write_reference(file, {"copy": {"all": {"n": 1}}}, {"b": "2"})
    assert read_reference(file) == {
        "scores": {"recall": {"all": [1.0, 1]}, "copy": {"all": {"n": 1}}},
        "outputs": {"a": "1", "b": "2"},
    }
    assert compare_outputs({"a": "1", "b": "3", "c": "4"}, file) == (2, ["b"])
    file.write_text(json.dumps([]))
    with pytest.raises(TrainingError, match="expected an object with scores"):
        read_reference(file)
