"""Finds gates with frozen weights: one a KV head mixes full and streaming attention, trained so that the last hidden
states of answers stay what they were while the gates are pushed towards streaming (section 3.2 of the paper).

Departs from the paper in the data (many facts in book text instead of passkeys) and in the small number of steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from ..data.sampler import draw
from ..data.segments import ANSWER_WEIGHT
from ..data.source import Source
from ..model.llama import Llama
from .attention import gated

_TOKENS_PER_STEP = 1024
_LOG_EVERY = 20


@dataclass(frozen=True)
class GateOptions:
    """As in the config.json that is published beside gates."""

    sink: int = 16
    recent: int = 64
    steps: int = 160
    rate: float = 0.02
    regularisation: float = 0.05
    lengths: tuple[int, ...] = (1024, 2048)
    seed: int = 42

    def origin(self) -> dict[str, object]:
        """How the gates were found, in the published words."""
        return {
            "lr": self.rate,
            "reg_weight": self.regularisation,
            "num_steps": self.steps,
            "initial_value": 1.0,
            "context_length_min": min(self.lengths),
            "context_length_max": max(self.lengths),
            "dataset_format": "multi_fact_recall",
            "streaming_attn_implementation": "sdpa",
            "seed": self.seed,
        }

    def rate_at(self, step: int) -> float:
        """Up over the first fifth of the steps, down over the last, never below a tenth."""
        fifth = self.steps / 5
        return self.rate * min(1.0, max((step + 1) / fifth, 0.1), max((self.steps - step) / fifth, 0.1))


def train_gates(
    model: Llama, source: Source, options: GateOptions, log: Callable[[str], None] = lambda _line: None
) -> Tensor:
    """Gates [layers, KV heads] in 0 to 1; high = the head needs distant tokens."""
    model.requires_grad_(False)
    gates = torch.ones(model.shape.layers, model.shape.kv_heads, requires_grad=True)
    optimiser = torch.optim.AdamW([gates], lr=options.rate, weight_decay=0.0)
    rng = Random(options.seed)
    for step in range(options.steps):
        ids, asked = _batch(source, rng, rng.choice(options.lengths))
        with torch.no_grad():
            gates.clamp_(0, 1)
        distance = _distance(model, ids, asked, gates, options)
        loss = distance + options.regularisation * gates.abs().mean()
        optimiser.param_groups[0]["lr"] = options.rate_at(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % _LOG_EVERY == 0 or step == options.steps - 1:
            log(f"gates step {step} distance {distance.item():.5f} mean gate {gates.clamp(0, 1).mean().item():.3f}")
    return gates.detach().clamp(0, 1)


def _batch(source: Source, rng: Random, length: int) -> tuple[Tensor, Tensor]:
    """Ids [batch, length], and where they are answers or predict the first token of one."""
    samples = [draw(source, rng, length, "recall") for _ in range(max(1, _TOKENS_PER_STEP // length))]
    answers = torch.tensor([sample.weights for sample in samples]) == ANSWER_WEIGHT
    predicting = torch.cat((answers[:, 1:], torch.zeros_like(answers[:, :1])), 1)
    return torch.tensor([sample.ids for sample in samples]), answers | predicting


def _distance(model: Llama, ids: Tensor, asked: Tensor, gates: Tensor, options: GateOptions) -> Tensor:
    """Mean squared difference to the ungated model's last hidden states where it counts."""
    length = ids.shape[1]
    embedded, table = model.embedding(ids), model.table(length)
    with torch.no_grad():
        teacher = model.hidden(embedded, table)
    student = model.hidden(embedded, table, gated(gates, options.sink, options.recent))
    return ((teacher - student).pow(2).mean(-1) * asked).sum() / asked.sum()
