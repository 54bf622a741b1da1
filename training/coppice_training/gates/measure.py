"""Recall by share of streaming KV heads: chosen by gates, at random, or the other way round."""

import torch
from torch import Tensor

from ..data.source import Source
from ..evaluation.intervals import describe
from ..model.llama import Llama
from ..train.monitor import recall_accuracy
from .attention import gated

SETTINGS = [
    *((str(share), "gates", share) for share in (0.25, 0.5, 0.75, 0.85, 0.9, 0.95, 1.0)),
    *((f"random-{share}-{seed}", f"random-{seed}", share) for share in (0.5, 0.75) for seed in (3, 4, 5)),
    *((f"inverted-{share}", "inverted", share) for share in (0.25, 0.5)),
]
"""Name, order of the heads, share that streams."""
_EVALUATION_SEED = 1234
_TOKENS_A_LENGTH = 15_360


def _order(gates: Tensor, name: str) -> Tensor:
    """Indices of the flattened gates, those that stream first in front."""
    if name.startswith("random"):
        return torch.randperm(gates.numel(), generator=torch.Generator().manual_seed(int(name.split("-")[1])))
    ascending = gates.flatten().argsort()
    return ascending.flip(0) if name == "inverted" else ascending


def recall_by_share(
    model: Llama,
    source: Source,
    gates: Tensor,
    lengths: tuple[int, ...],
    sink: int,
    recent: int,
    num_texts: int | None = None,
) -> dict[str, dict[str, tuple[int, int]]]:
    """Length -> setting -> right answers and all answers, with streaming attention in prefill and decode.

    Measured on `num_texts` texts of each length, or on fewer of the longer ones where that is None.
    """
    result: dict[str, dict[str, tuple[int, int]]] = {}
    for length in lengths:
        count = num_texts or max(4, _TOKENS_A_LENGTH // length)
        rows = result[str(length)] = {"full": recall_accuracy(model, source, length, count, _EVALUATION_SEED)}
        for name, order, share in SETTINGS:
            chosen = torch.ones(gates.numel())
            chosen[_order(gates, order)[: round(gates.numel() * share)]] = 0
            attend = gated(chosen.view_as(gates), sink, recent)
            rows[name] = recall_accuracy(model, source, length, count, _EVALUATION_SEED, attend)
    return result


def describe_table(table: dict[str, dict[str, tuple[int, int]]]) -> list[str]:
    """Lines for people."""
    return [f"{length} {name}: {describe(*counts)}" for length, rows in table.items() for name, counts in rows.items()]
