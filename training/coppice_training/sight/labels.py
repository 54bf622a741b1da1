"""What each patch of a scene shows: targets of the auxiliary losses, which only speed training up."""

from typing import NamedTuple

from .scenes import CHARACTERS, COLOR_NAMES, IMAGE_PIXELS, KINDS, PLACES, SceneObject

NONE = -100
"""No target: what cross entropy ignores."""


class SceneLabels(NamedTuple):
    """Lists of one entry a patch, row by row; `present` has one a kind, colour and character."""

    kind: list[int]
    """0 = background, else 1 + index in KINDS."""
    color: list[int]
    character: list[int]
    place: list[int]
    present: list[float]


def label_scene(objects: list[SceneObject], patch_pixels: int) -> SceneLabels:
    """Labels of the patches whose centre lies in an object's box (a pixel wider)."""
    side = IMAGE_PIXELS // patch_pixels
    count = side * side
    labels = SceneLabels([0] * count, [NONE] * count, [NONE] * count, [0] * count, _present(objects))
    for thing in objects:
        left, top, right, bottom = thing.box
        for patch in range(count):
            x, y = (patch % side + 0.5) * patch_pixels, (patch // side + 0.5) * patch_pixels
            if left - 1 <= x <= right + 1 and top - 1 <= y <= bottom + 1:
                labels.kind[patch] = 1 + KINDS.index(thing.kind)
                labels.color[patch] = COLOR_NAMES.index(thing.color)
                labels.place[patch] = PLACES.index(thing.place)
                if thing.character:
                    labels.character[patch] = CHARACTERS.index(thing.character)
    return labels


def _present(objects: list[SceneObject]) -> list[float]:
    names = KINDS + COLOR_NAMES + list(CHARACTERS)
    seen = {name for thing in objects for name in (thing.kind, thing.color, thing.character) if name}
    return [1.0 if name in seen else 0.0 for name in names]
