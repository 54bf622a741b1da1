"""Batches of drawn scenes: pixels, question and answer ids with weights, labels of the patches."""

from random import Random
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ..chat import TURN_END, TURN_START
from ..data.segments import Encoder
from ..sight.labels import SceneLabels, label_scene
from ..sight.pixels import normalise
from ..sight.questions import Question, questions_about
from ..sight.scenes import SceneObject, draw_scene
from .plan import SightPlan

_QUESTION_WEIGHT, _ANSWER_WEIGHT = 0.02, 1.0
_RARE_KINDS = ("count", "exist", "place")
"""Every scene offers them, so that they would crowd out the others."""


class SightBatch(NamedTuple):
    """Batch x ...; `labels` as in SceneLabels."""

    pixels: Tensor
    """[batch, 3, image, image]"""
    ids: Tensor
    """[batch, answer tokens] behind the image"""
    targets: Tensor
    weights: Tensor
    kinds: Tensor
    """[batch, patches], as the next three"""
    colors: Tensor
    characters: Tensor
    places: Tensor
    present: Tensor
    """[batch, kinds + colours + characters], 1.0 = in the image"""


class SightSampler:
    """Draws batches; `before` [1, n] are the ids in front of the image."""

    def __init__(self, tokenizer: Tokenizer, plan: SightPlan) -> None:
        self.plan, self.encoder = plan, Encoder(tokenizer)
        self.before = torch.tensor([self.encoder.ids(f"{TURN_START}user\n")])

    def draw(self, rng: Random) -> SightBatch:
        """A batch of new scenes."""
        pixels: list[Tensor] = []
        ids: list[list[int]] = []
        weights: list[list[float]] = []
        labels: list[SceneLabels] = []
        for _ in range(self.plan.batch):
            image, objects = draw_scene(rng)
            some_ids, some_weights = self.dialogue(self.questions(rng, objects))
            pixels.append(normalise(image))
            ids.append(some_ids)
            weights.append(some_weights)
            labels.append(label_scene(objects, self.plan.vision.patch))
        id_rows, weight_rows = torch.tensor(ids), torch.tensor(weights)
        nothing = torch.zeros(self.plan.batch, 1)
        return SightBatch(
            torch.stack(pixels),
            id_rows,
            torch.cat((id_rows[:, 1:], nothing.long()), 1),
            torch.cat((weight_rows[:, 1:], nothing), 1),
            *(torch.tensor(column) for column in zip(*labels, strict=True)),
        )

    def questions(self, rng: Random, objects: list[SceneObject]) -> list[Question]:
        """Questions about a scene, of different kinds first."""
        asked = [
            question
            for question in questions_about(rng, objects)
            if question.kind not in _RARE_KINDS or rng.random() < self.plan.rare_share
        ]
        seen: dict[str, int] = {}
        order: list[tuple[float, Question]] = []
        for question in asked:
            earlier = seen.get(question.kind, 0)
            order.append((earlier + rng.random(), question))
            seen[question.kind] = earlier + 1
        return [question for _, question in sorted(order, key=lambda pair: pair[0])]

    def dialogue(self, questions: list[Question]) -> tuple[list[int], list[float]]:
        """Ids and weights [answer tokens] of as many turns as fit, padded with zeros."""
        ids: list[int] = []
        weights: list[float] = []
        encode, room = self.encoder.ids, self.plan.answer_tokens
        for number, question in enumerate(questions[: self.plan.turns]):
            opening = "" if number == 0 else f"{TURN_START}user\n"
            asked = [*encode("\n"), *encode(opening), *encode(question.text)]
            asked += [*encode(TURN_END), *encode("\n"), *encode(f"{TURN_START}assistant\n")]
            answered = [*encode(question.answer), *encode(TURN_END)]
            if len(ids) + len(asked) + len(answered) > room:
                break
            ids += asked + answered
            weights += [_QUESTION_WEIGHT] * len(asked) + [_ANSWER_WEIGHT] * len(answered)
        padding = room - len(ids)
        return ids + [0] * padding, weights + [0.0] * padding
