"""Exact answers of a text model, teacher-forced: a quick measure while it trains and for gates."""

from random import Random

import torch

from ..data.sampler import answer_spans, draw
from ..data.source import Source
from ..model.llama import Attend, Llama, attend_causally


@torch.no_grad()
def recall_accuracy(
    model: Llama, source: Source, length: int, num_texts: int, seed: int, attend: Attend = attend_causally
) -> tuple[int, int]:
    """Right answers and all answers in `num_texts` recall texts; an answer is right if every token of it is."""
    rng, right, count = Random(seed), 0, 0
    for _ in range(num_texts):
        ids, weights = draw(source, rng, length, "recall")
        best = model(torch.tensor([ids]), model.table(length), attend).argmax(-1)[0].tolist()
        for start, end in answer_spans(weights):
            right += best[start - 1 : end - 1] == ids[start:end]
            count += 1
    return right, count
