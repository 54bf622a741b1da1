"""Questions about a scene whose answers follow from its objects."""

import random
from typing import NamedTuple

from .scenes import COLOR_NAMES, KINDS, SceneObject

QUESTION_KINDS = ["color", "digit", "letter", "place", "color_at", "shape", "shape_of_color", "count", "exist"]


class Question(NamedTuple):
    """A question, its answer and its kind (one of QUESTION_KINDS)."""

    kind: str
    text: str
    answer: str


def questions_about(rng: random.Random, objects: list[SceneObject]) -> list[Question]:
    """All questions of all kinds that have one answer, in random order."""
    found: list[Question] = []
    kinds = [thing.kind for thing in objects]
    colors = [thing.color for thing in objects]
    for thing in objects:
        if kinds.count(thing.kind) == 1:
            found.append(Question("color", f"What color is the {thing.kind}?", thing.color))
            if thing.character:
                found.append(Question(thing.kind, f"Which {thing.kind} is written in the image?", thing.character))
            else:
                found.append(Question("place", f"Where is the {thing.kind}?", thing.place))
        found.append(Question("color_at", f"What color is the object at the {thing.place}?", thing.color))
        found.append(Question("shape", f"What is at the {thing.place}?", thing.kind))
        if colors.count(thing.color) == 1:
            found.append(Question("shape_of_color", f"What is the {thing.color} object?", thing.kind))
    counted = rng.choice(colors) if rng.random() < 0.7 else rng.choice(COLOR_NAMES)
    found.append(Question("count", f"How many {counted} objects are there?", str(colors.count(counted))))
    found.append(Question("count", "How many objects are there?", str(len(objects))))
    if rng.random() < 0.5:
        thing = rng.choice(objects)
        color, kind = thing.color, thing.kind
    else:
        color, kind = rng.choice(COLOR_NAMES), rng.choice(KINDS)
    present = any(thing.color == color and thing.kind == kind for thing in objects)
    found.append(Question("exist", f"Is there a {color} {kind}?", "yes" if present else "no"))
    rng.shuffle(found)
    return found
