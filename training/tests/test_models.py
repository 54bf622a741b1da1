"""Models: placed heads look where they should, Muon's updates are orthogonal, gates mix, positions jump."""

import random

import pytest
import torch

from coppice_training.data.sampler import draw
from coppice_training.errors import TrainingError
from coppice_training.gates.attention import gated, streaming_mask
from coppice_training.model.circuits import TEXT_OFFSETS, place_text_circuits
from coppice_training.model.llama import Llama, LlamaShape, attend_causally
from coppice_training.model.muon import orthogonalise
from coppice_training.train.text import new_text_model, positions_with_gaps

SHIPPED = LlamaShape(1536, 192, 6, 8, 4, 32, 512)


def probabilities(model: Llama, ids: torch.Tensor, layer: int) -> torch.Tensor:
    """[query heads, length, length]"""
    seen = {}

    def attend(index, query, key, value):
        length = query.shape[2]
        scores = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(
            torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf")
        )
        seen[index] = scores.softmax(-1)
        return attend_causally(index, query, key, value)

    with torch.no_grad():
        model(ids, model.table(ids.shape[1]), attend)
    return seen[layer][0]


def test_offset_heads_look_back(source):
    model = Llama(SHIPPED)
    place_text_circuits(model, seed=1)
    ids = torch.tensor([draw(source, random.Random(1), 256, "recall").ids])
    chosen = probabilities(model, ids, 0).argmax(-1)
    rows = torch.arange(256)
    for head, offset in enumerate(offset for pair in TEXT_OFFSETS for offset in pair):
        hits = (chosen[head] == rows - offset)[16:].float().mean().item()
        assert hits > 0.9, f"head {head} of offset {offset}: {hits}"


def test_matching_heads_find_answers_untrained(source):
    """What the placement is for: before any training, lookups of keys attend to the lines that state them."""
    model = Llama(SHIPPED)
    place_text_circuits(model, seed=1)
    ids, weights = draw(source, random.Random(2), 256, "key_value")
    first = weights.index(4.0)
    attention = probabilities(model, torch.tensor([ids]), 1)
    same = torch.tensor([earlier == ids[first] for earlier in ids[:first]])
    best = attention[:, first - 1, :first]
    random_share = same.float().mean()
    assert (best[:, same].sum(-1) / best.sum(-1)).max() > 3 * random_share


def test_placement_refuses_other_head_counts():
    with pytest.raises(TrainingError, match="of 2 query heads"):
        place_text_circuits(Llama(LlamaShape(64, 192, 2, 4, 4, 32, 64)), seed=1)
    with pytest.raises(TrainingError, match="expected a hidden size above"):
        place_text_circuits(Llama(LlamaShape(64, 64, 2, 8, 4, 32, 64)), seed=1)


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16)])
def test_orthogonalise(shape):
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
    assert values.min() > 0.3 and values.max() < 1.6


def test_gates_of_one_change_nothing_and_of_zero_hide_the_middle(tiny_text_plan):
    model = new_text_model(tiny_text_plan)
    shape = tiny_text_plan.model
    ids = torch.randint(4, shape.vocabulary, (1, 64), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[0, 20] = 5  # neither a sink token nor in the window of the last row
    with torch.no_grad():
        full = model(ids, model.table(64))
        ones = model(ids, model.table(64), gated(torch.ones(shape.layers, shape.kv_heads), 4, 8))
        zeros = gated(torch.zeros(shape.layers, shape.kv_heads), 4, 8)
        assert torch.equal(full, ones)
        streamed, changed = (model(x, model.table(64), zeros)[0, -1] for x in (ids, other))
        assert not torch.equal(full[0, -1], streamed)
        assert torch.equal(streamed, changed)
    mask = streaming_mask(64, 4, 8)
    assert mask[63].sum() == 12 and mask[3].sum() == 4


def test_gaps_keep_the_order_and_the_limit():
    rng = random.Random(1)
    jumped = 0
    for _ in range(200):
        positions = positions_with_gaps(rng, 32, 100, 0.5)
        assert positions[0] == 0 and positions[-1] < 100
        steps = positions[1:] - positions[:-1]
        assert steps.min() >= 1
        jumped += bool(steps.max() > 1)
    assert 60 < jumped < 120
    assert torch.equal(positions_with_gaps(rng, 32, 32, 1.0), torch.arange(32))
