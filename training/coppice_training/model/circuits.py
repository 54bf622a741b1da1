"""Structured initialisation: heads that look a fixed distance back, and heads that match content above them.

It replaces the long plateau before retrieval heads form by themselves, which costs most of a budget of ten million
tokens. Everything stays trainable; but the retrieval heads of a model that starts like this are placed, not discovered.

How an offset head works: one feature of every embedding is constant. Query and key read only that feature, and only
into the fast RoPE planes, the query turned back by `offset` steps; the product then peaks where i - j = offset. What
the head sees there it writes into a subspace of its own. Matching heads compare such subspaces in the slow planes,
which hardly turn within the context, so that content counts and distance does not.
"""

import math

import torch
from torch import Tensor

from ..errors import TrainingError
from .llama import Layer, Llama

_EMBEDDING_STD = 0.05
_CONSTANT = 4 * _EMBEDDING_STD
_SHARPNESS = 6.85
_MATCH = 2.2
_COPY = 0.03
_FAST_RADIANS, _SLOW_RADIANS = 0.02, 0.003
"""Radians a position: planes turning faster carry offsets, slower ones content."""

TEXT_OFFSETS = ((3, 6), (4, 7), (5, 8), (1, 0))
"""For each KV head its two query heads' distances. Above: the text side (first) is compared with the question's."""
SIGHT_OFFSETS = (1, 6, 7, 8)
MATCH_LAYERS = (1, 2)


class _Planes:
    """RoPE planes by speed, and random directions that leave the constant feature alone."""

    def __init__(self, model: Llama, seed: int) -> None:
        shape = model.shape
        self.hidden, self.head_dim, self.half = shape.hidden, shape.head_dim, shape.head_dim // 2
        self.radians = [shape.rope_theta ** (-plane / self.half) for plane in range(self.half)]
        self.fast = [plane for plane in range(self.half) if self.radians[plane] > _FAST_RADIANS]
        slow = [plane for plane in range(self.half) if self.radians[plane] < _SLOW_RADIANS]
        self.slow_rows = slow + [plane + self.half for plane in slow]
        variance = _EMBEDDING_STD**2 * (self.hidden - 1) + _CONSTANT**2
        self.constant = _CONSTANT / math.sqrt(variance / self.hidden)  # after the norm
        self.random = torch.Generator().manual_seed(seed)

    def directions(self, count: int) -> Tensor:
        """[count, hidden] orthonormal rows with a zero for the constant feature; at most hidden - 1."""
        columns = torch.linalg.qr(torch.randn(self.hidden - 1, count, generator=self.random))[0]
        return torch.cat((torch.zeros(count, 1), columns.T), 1)

    def on_slow_rows(self, directions: Tensor) -> Tensor:
        """[slow rows, hidden] placed in a head's matrix [head_dim, hidden] that is zero elsewhere."""
        matrix = torch.zeros(self.head_dim, self.hidden)
        matrix[self.slow_rows] = directions
        return matrix

    def rows(self, head: int) -> slice:
        """A head's rows in a projection."""
        return slice(head * self.head_dim, (head + 1) * self.head_dim)

    def look_back(self, layer: Layer, query_head: int, kv_head: int, offset: int) -> None:
        """Makes a query head attend `offset` positions back."""
        strength = _SHARPNESS / self.constant
        for plane in self.fast:
            turned = offset * self.radians[plane]
            row = query_head * self.head_dim + plane
            layer.query.weight[row, 0] = strength * math.cos(turned)
            layer.query.weight[row + self.half, 0] = -strength * math.sin(turned)
            layer.key.weight[kv_head * self.head_dim + plane, 0] = strength


def _embed(model: Llama, planes: _Planes) -> None:
    model.embedding.weight.normal_(std=_EMBEDDING_STD, generator=planes.random)
    model.embedding.weight[:, 0] = _CONSTANT


@torch.no_grad()
def place_text_circuits(model: Llama, seed: int) -> None:
    """Offset heads in layer 0, matching heads in layers 1 and 2, weak similarity heads above; needs two query heads
    a KV head."""
    shape, planes = model.shape, _Planes(model, seed)
    group = shape.query_heads // shape.kv_heads
    offsets = TEXT_OFFSETS[: shape.kv_heads - 1] + TEXT_OFFSETS[-1:]
    if group != 2 or len(offsets) != shape.kv_heads:
        raise TrainingError(f"expected up to 4 KV heads of 2 query heads, got {shape.kv_heads} of {group}")
    _embed(model, planes)
    width = len(planes.slow_rows)
    subspaces = _subspaces(planes, [offset for pair in offsets for offset in pair], width)

    first = model.layers[0]
    first.query.weight.zero_()
    first.key.weight.zero_()
    first.output.weight.zero_()
    for kv_head, pair in enumerate(offsets):
        first.value.weight[planes.rows(kv_head)] = planes.directions(shape.head_dim)
        for member, offset in enumerate(pair):
            head = kv_head * group + member
            planes.look_back(first, head, kv_head, offset)
            start = head * shape.head_dim
            first.output.weight[:, start : start + width] = 2 * _EMBEDDING_STD * subspaces[offset].T

    for layer in [model.layers[index] for index in MATCH_LAYERS if index < shape.layers]:
        for kv_head, (text_side, question_side) in enumerate(offsets):
            key = planes.on_slow_rows(subspaces[text_side])
            query = planes.on_slow_rows(subspaces[question_side])
            value = planes.directions(shape.head_dim)
            layer.key.weight[planes.rows(kv_head)] = _MATCH * key
            layer.value.weight[planes.rows(kv_head)] = value
            for member in range(group):
                rows = planes.rows(kv_head * group + member)
                layer.query.weight[rows] = _MATCH * query * (1.0 if member == 0 else 0.5)
                layer.output.weight[:, rows] = _COPY * value.T

    for layer in model.layers[max(MATCH_LAYERS) + 1 :]:
        for kv_head in range(shape.kv_heads // 2):
            same = planes.on_slow_rows(planes.directions(width))
            layer.key.weight[planes.rows(kv_head)] = 0.6 * _MATCH * same
            for member in range(group):
                layer.query.weight[planes.rows(kv_head * group + member)] = 0.6 * _MATCH * same
        layer.output.weight.mul_(0.1)
    for layer in model.layers:
        layer.down.weight.mul_(0.05)


@torch.no_grad()
def place_sight_circuits(model: Llama, seed: int) -> None:
    """As for text, but matching heads compare a word of the question with tokens themselves: visual ones are trained to
    read as words. Needs four query heads with a KV head each."""
    shape, planes = model.shape, _Planes(model, seed)
    if shape.query_heads != len(SIGHT_OFFSETS) or shape.kv_heads != len(SIGHT_OFFSETS):
        raise TrainingError(f"expected 4 query and 4 KV heads, got {shape.query_heads} and {shape.kv_heads}")
    _embed(model, planes)
    width = len(planes.slow_rows)
    subspaces = _subspaces(planes, list(SIGHT_OFFSETS), width)

    first = model.layers[0]
    for matrix in (first.query.weight, first.key.weight, first.output.weight):
        matrix.zero_()
    seen: list[Tensor] = []
    for head, offset in enumerate(SIGHT_OFFSETS):
        seen.append(planes.directions(shape.head_dim))
        first.value.weight[planes.rows(head)] = seen[head]
        planes.look_back(first, head, head, offset)
        start = head * shape.head_dim
        first.output.weight[:, start : start + width] = 2 * _EMBEDDING_STD * subspaces[offset].T

    for layer in [model.layers[index] for index in MATCH_LAYERS if index < shape.layers]:
        for head, offset in enumerate(SIGHT_OFFSETS):
            rows, value = planes.rows(head), planes.directions(shape.head_dim)
            layer.key.weight[rows] = _MATCH * planes.on_slow_rows(seen[head][:width])
            layer.query.weight[rows] = _MATCH * planes.on_slow_rows(subspaces[offset])
            layer.value.weight[rows] = value
            layer.output.weight[:, rows] = _COPY * value.T
    for layer in model.layers:
        layer.down.weight.mul_(0.2)


def _subspaces(planes: _Planes, offsets: list[int], width: int) -> dict[int, Tensor]:
    """For each offset [width, hidden] directions that no other offset shares."""
    if width * len(offsets) >= planes.hidden:
        raise TrainingError(f"expected a hidden size above {width * len(offsets)} for {len(offsets)} offsets")
    directions = planes.directions(width * len(offsets))
    return {offset: directions[i * width : (i + 1) * width] for i, offset in enumerate(offsets)}
