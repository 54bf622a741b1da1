"""Evaluation set of the vision model: drawn images and equally many questions of each kind.

Seed 303 and 22 a kind make the shipped set again (the images pixel by pixel with the pinned Pillow).
"""

from pathlib import Path
from random import Random

from ..sight.questions import QUESTION_KINDS, Question, questions_about
from ..sight.scenes import SceneObject, draw_scene
from .jsonl import Item, write_items

_QUESTIONS_AN_IMAGE = 2


def write_sight_set(folder: Path, seed: int, per_kind: int = 22) -> int:
    """Writes sight/sight.jsonl and its images under `folder`; returns the number of questions."""
    rng = Random(seed)
    images = folder / "sight" / "images"
    images.mkdir(parents=True, exist_ok=True)
    wanted = dict.fromkeys(QUESTION_KINDS, per_kind)
    items: list[Item] = []
    number = 0
    while any(wanted.values()):
        image, objects = draw_scene(rng)
        chosen = _choose(questions_about(rng, objects), wanted)
        if not chosen:
            continue
        name = f"{number:03d}"
        image.save(images / f"{name}.png")
        for question in chosen:
            wanted[question.kind] -= 1
            items.append(_item(name, question, objects))
        number += 1
    write_items(folder / "sight" / "sight.jsonl", items)
    return len(items)


def _choose(questions: list[Question], wanted: dict[str, int]) -> list[Question]:
    """Up to two questions of different kinds, of those that are wanted most."""
    open_ones = [question for question in questions if wanted[question.kind] > 0]
    chosen: dict[str, Question] = {}
    for question in sorted(open_ones, key=lambda question: -wanted[question.kind]):
        if len(chosen) < _QUESTIONS_AN_IMAGE:
            chosen.setdefault(question.kind, question)
    return list(chosen.values())


def _item(name: str, question: Question, objects: list[SceneObject]) -> Item:
    content = [{"type": "image"}, {"type": "text", "text": question.text}]
    return {
        "id": f"sight-{name}-{question.kind}",
        "task": "sight",
        "kind": question.kind,
        "image": f"images/{name}.png",
        "answer": question.answer,
        "max_new_tokens": 8,
        "messages": [{"role": "user", "content": content}],
        "objects": [
            {
                "kind": thing.kind,
                "color": thing.color,
                "place": thing.place,
                "char": thing.character,
                "box": [round(edge, 1) for edge in thing.box],
            }
            for thing in objects
        ],
    }
