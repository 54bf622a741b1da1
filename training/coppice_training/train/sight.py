"""Runs of the vision model: first the encoder with its auxiliary losses alone, then questions as well."""

from collections import defaultdict
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..model.circuits import place_sight_circuits
from ..model.llama import weighted_cross_entropy
from ..model.sight import Sight
from .plan import SightPlan
from .run import Run
from .sight_data import SightBatch, SightSampler
from .sight_losses import AuxiliaryHeads, WordTable

_ALIGNMENT_WEIGHT = 0.5
_LIGHTER_FROM = 0.6
"""Share of the steps after which the auxiliary losses weigh less."""


class SightModel(nn.Module):
    """What is trained: the model that is exported, and heads that are not."""

    def __init__(self, plan: SightPlan) -> None:
        super().__init__()
        self.sight = Sight(plan.vision, plan.model)
        self.auxiliary = AuxiliaryHeads(plan.vision.hidden)


def new_sight_model(plan: SightPlan) -> SightModel:
    """A model as it is before the first step, with placed heads in its language model."""
    torch.manual_seed(plan.seed)
    model = SightModel(plan)
    place_sight_circuits(model.sight.language, plan.seed)
    return model


class SightRun(Run):
    """Trains on drawn scenes."""

    plan: SightPlan
    model: SightModel

    def __init__(self, plan: SightPlan, tokenizer: Tokenizer, *, compiled: bool = False) -> None:
        super().__init__(plan, new_sight_model(plan))
        self.sampler = SightSampler(tokenizer, plan)
        self.words = WordTable(self.sampler.encoder)
        length = self.sampler.before.shape[1] + plan.vision.patches + plan.answer_tokens
        self.table = self.model.sight.language.table(length)
        self._visual_loss = torch.compile(self.visual_loss, dynamic=False) if compiled else self.visual_loss

    def loss(self) -> Tensor:
        batch, schedule = self.sampler.draw(self.rng), self.plan.schedule
        auxiliary, visual = self._visual_loss(batch)
        if self.step < self.plan.vision_only_steps:
            return auxiliary
        early, late = self.plan.auxiliary_weights
        weight = early if self.step < _LIGHTER_FROM * schedule.steps else late
        logits = self.logits(visual, batch)
        return weighted_cross_entropy(logits, batch.targets, batch.weights) + weight * auxiliary

    def visual_loss(self, batch: SightBatch) -> tuple[Tensor, Tensor]:
        """The auxiliary losses' sum, and the projected patches [batch, patches, text hidden]."""
        sight = self.model.sight
        patches, class_row = sight.encode(batch.pixels)
        visual = sight.project(patches)
        aligned = self.words.alignment_loss(visual, sight.language.embedding.weight, batch)
        return self.model.auxiliary.loss(patches, class_row, batch) + _ALIGNMENT_WEIGHT * aligned, visual

    def logits(self, visual: Tensor, batch: SightBatch) -> Tensor:
        """[batch, answer tokens, vocabulary]"""
        before = self.sampler.before.expand(len(batch.ids), -1)
        return self.model.sight.answer_logits(visual, before, batch.ids, self.table)

    @torch.no_grad()
    def accuracy(self, num_batches: int, seed: int) -> dict[str, float]:
        """Share of right answer tokens, and of those patches of objects whose kind is recognised, on new scenes."""
        rng, right = Random(seed), defaultdict(list)
        for _ in range(num_batches):
            batch = self.sampler.draw(rng)
            patches, _ = self.model.sight.encode(batch.pixels)
            best = self.logits(self.model.sight.project(patches), batch).argmax(-1)
            answers = batch.weights == 1.0
            right["answer tokens"].append((best == batch.targets)[answers])
            kinds = self.model.auxiliary.patches(patches)[..., : int(batch.kinds.max()) + 1].argmax(-1)
            objects = batch.kinds > 0
            right["object patches"].append((kinds == batch.kinds)[objects])
        return {name: torch.cat(rows).float().mean().item() for name, rows in right.items()}
