"""Runs of the text model: batches by the curriculum, positions with gaps."""

import random

import torch
from torch import Tensor

from ..data.sampler import draw
from ..data.source import Source
from ..model.circuits import place_text_circuits
from ..model.llama import Llama, rotary_table
from .plan import TextPlan
from .run import Run


def new_text_model(plan: TextPlan) -> Llama:
    """A model as it is before the first step: structured if the plan says so (model/circuits.py), else random."""
    torch.manual_seed(plan.seed)
    model = Llama(plan.model)
    if plan.structured:
        place_text_circuits(model, plan.seed)
    return model


class TextRun(Run):
    """Trains on samples of `source`; `compiled` makes steps faster after a slow start."""

    plan: TextPlan
    model: Llama

    def __init__(self, plan: TextPlan, source: Source, *, compiled: bool = False) -> None:
        super().__init__(plan, new_text_model(plan))
        self.source = source
        self._loss = torch.compile(self.model.loss, dynamic=False) if compiled else self.model.loss

    def loss(self) -> Tensor:
        ids, targets, weights, positions = self.batch()
        shape = self.plan.model
        return self._loss(ids, targets, weights, rotary_table(positions, shape.head_dim, shape.rope_theta))

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids, the ids after them, the weights of those, positions: each [samples, length], all of one length."""
        stage = self.plan.stage(self.step)
        length = int(self.rng.choices(list(stage.lengths), list(stage.lengths.values()))[0])
        count = max(1, self.plan.tokens_per_step // length)
        tasks = self.rng.choices(list(stage.tasks), list(stage.tasks.values()), k=count)
        samples = [draw(self.source, self.rng, length, task) for task in tasks]
        ids = torch.tensor([sample.ids for sample in samples])
        weights = torch.tensor([sample.weights for sample in samples])
        targets = torch.cat((ids[:, 1:], ids[:, :1]), 1)
        target_weights = torch.cat((weights[:, 1:], torch.zeros(count, 1)), 1)  # nothing follows the last token
        rows = [positions_with_gaps(self.rng, length, self.plan.max_position, stage.gap_share) for _ in range(count)]
        return ids, targets, target_weights, torch.stack(rows)


def positions_with_gaps(rng: random.Random, length: int, limit: int, share: float) -> Tensor:
    """Positions [length] below `limit`; with probability `share` they jump once or twice by random distances."""
    positions = torch.arange(length)
    if length < limit and rng.random() < share:
        room = rng.randint(0, limit - length)
        for _ in range(rng.randint(1, 2)):
            gap = rng.randint(0, room)
            positions[rng.randint(1, length - 1) :] += gap
            room -= gap
    return positions
