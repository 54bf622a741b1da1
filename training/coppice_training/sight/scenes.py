"""Draws scenes: two to six coloured shapes, digits and letters on clutter, each in a cell of a 3 x 3 grid."""

import math
import random
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

IMAGE_PIXELS = 112
"""Width and height."""
COLORS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 220, 40),
    "purple": (140, 50, 180),
    "orange": (245, 140, 30),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "pink": (250, 140, 190),
    "cyan": (50, 210, 220),
}
COLOR_NAMES = list(COLORS)
SHAPES = ["circle", "square", "triangle", "star", "diamond", "cross", "ring"]
KINDS = [*SHAPES, "digit", "letter"]
DIGITS = "0123456789"
LETTERS = "ABCEFHKLMPRTUXY"
CHARACTERS = DIGITS + LETTERS
PLACES = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]

Color = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class SceneObject:
    """One object; `box` is left, top, right, bottom in pixels, `character` of digits and letters only."""

    kind: str
    color: str
    place: str
    character: str | None
    box: tuple[float, float, float, float]


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _near(rng: random.Random, color: tuple[int, ...], reach: int) -> Color:
    """A colour that differs by at most `reach` in each channel."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-reach, reach))) for channel in color)
    return red, green, blue


def _corners(x: float, y: float, radius: float, count: int, inner: float | None = None) -> list[Point]:
    """A regular polygon's corners from the top clockwise, or a star's whose inner ones lie at `inner` of the radius."""
    points, total = [], count * 2 if inner else count
    for index in range(total):
        reach = inner * radius if inner and index % 2 else radius
        angle = 2 * math.pi * index / total
        points.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
    return points


def _draw_shape(pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, r: float, fill: Color) -> None:
    """A shape of about radius r around x, y (pixels)."""
    square = (x - r, y - r, x + r, y + r)
    if kind == "circle":
        pen.ellipse(square, fill=fill)
    elif kind == "ring":
        pen.ellipse(square, outline=fill, width=max(3, int(r * 0.38)))
    elif kind == "square":
        q = r * 0.86
        pen.rectangle((x - q, y - q, x + q, y + q), fill=fill)
    elif kind == "triangle":
        pen.polygon(_corners(x, y + r * 0.15, r * 1.1, 3), fill=fill)
    elif kind == "diamond":
        pen.polygon([(x, y - r * 1.12), (x + r * 0.72, y), (x, y + r * 1.12), (x - r * 0.72, y)], fill=fill)
    elif kind == "star":
        pen.polygon(_corners(x, y, r * 1.15, 5, 0.42), fill=fill)
    elif kind == "cross":
        q = r * 0.34
        pen.rectangle((x - q, y - r, x + q, y + r), fill=fill)
        pen.rectangle((x - r, y - q, x + r, y + q), fill=fill)
    else:
        raise ValueError(f"no shape {kind!r}")


def _background(rng: random.Random) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """A pale gradient with lines and specks; also its grey level, 0 to 255."""
    drawn = [rng.randint(60, 205) for _ in range(3)]
    grey = sum(drawn) // 3
    start = tuple(int(0.3 * channel + 0.7 * grey) for channel in drawn)
    end = _near(rng, start, 45)
    corners = Image.new("RGB", (2, 2))
    for index, share in enumerate((0.0, 0.4, 0.6, 1.0)):
        pixel = tuple(int(a + (b - a) * share) for a, b in zip(start, end, strict=True))
        corners.putpixel((index % 2, index // 2), pixel)
    image = corners.resize((IMAGE_PIXELS, IMAGE_PIXELS), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 14)):
        color = _near(rng, start, 50)
        x, y = rng.randint(0, IMAGE_PIXELS), rng.randint(0, IMAGE_PIXELS)
        if rng.random() < 0.6:
            end_x, end_y = x + rng.randint(-40, 40), y + rng.randint(-40, 40)
            pen.line((x, y, end_x, end_y), fill=color, width=rng.randint(1, 2))
        else:
            pen.rectangle((x, y, x + rng.randint(2, 7), y + rng.randint(2, 7)), fill=color)
    return image, pen, grey


def _draw_kind(rng: random.Random, objects: list[SceneObject]) -> str:
    """A kind; at most one digit and one letter, so that "the digit" means one thing."""
    chance = rng.random()
    kind = "digit" if chance < 0.22 else "letter" if chance < 0.34 else rng.choice(SHAPES)
    if kind in ("digit", "letter") and any(other.kind == kind for other in objects):
        return rng.choice(SHAPES)
    return kind


def _draw_color(rng: random.Random, grey: int) -> str:
    """A colour that stands out from a background of that grey level."""
    while True:
        name = rng.choice(COLOR_NAMES)
        channels = COLORS[name]
        if abs(sum(channels) // 3 - grey) > 25 or max(channels) - min(channels) > 90:
            return name


def draw_scene(rng: random.Random) -> tuple[Image.Image, list[SceneObject]]:
    """An RGB image of IMAGE_PIXELS squared, and what is in it."""
    image, pen, grey = _background(rng)
    count = rng.randint(2, 6)
    objects: list[SceneObject] = []
    for cell in rng.sample(range(9), count):
        radius = rng.uniform(9.5, 14.0)
        x = (cell % 3 + 0.5) * IMAGE_PIXELS / 3 + rng.uniform(-3, 3)
        y = (cell // 3 + 0.5) * IMAGE_PIXELS / 3 + rng.uniform(-3, 3)
        kind, color = _draw_kind(rng, objects), _draw_color(rng, grey)
        fill, character = _near(rng, COLORS[color], 12), None
        if kind in ("digit", "letter"):
            character = rng.choice(DIGITS if kind == "digit" else LETTERS)
            font, stroke = _font(rng.randint(26, 34)), rng.choice([0, 1])
            pen.text((x, y), character, fill=fill, font=font, anchor="mm", stroke_width=stroke, stroke_fill=fill)
        else:
            _draw_shape(pen, kind, x, y, radius, fill)
        box = (x - radius, y - radius, x + radius, y + radius)
        objects.append(SceneObject(kind, color, PLACES[cell], character, box))
    return image, objects
