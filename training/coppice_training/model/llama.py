"""A compact Llama for training; its weights have one-to-one names in the Hugging Face layout (export/text.py)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class LlamaShape:
    """Sizes of a Llama with tied embeddings."""

    vocabulary: int
    hidden: int
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    rope_theta: float = 1e6


RotaryTable = tuple[Tensor, Tensor]
"""Cosines and sines, each [batch or 1, 1, length, head_dim / 2]."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query, key, value), each [batch, query heads, length, head_dim] -> the same shape."""


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> RotaryTable:
    """The table of `positions` [batch or 1, length]."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = positions.float().unsqueeze(-1) * frequencies
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """RoPE on x [batch, heads, length, head_dim], first half against second half as Hugging Face has it."""
    cos, sin = table
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attend_causally(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Full causal attention."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


class RmsNorm(nn.Module):
    """Root mean square norm over the last dimension."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + NORM_EPSILON) * self.weight


class Layer(nn.Module):
    """Attention and MLP, each on a normed copy and added to the residual."""

    def __init__(self, shape: LlamaShape, index: int) -> None:
        super().__init__()
        self.shape, self.index = shape, index
        hidden, size = shape.hidden, shape.head_dim
        self.attention_norm, self.mlp_norm = RmsNorm(hidden), RmsNorm(hidden)
        self.query = nn.Linear(hidden, shape.query_heads * size, bias=False)
        self.key = nn.Linear(hidden, shape.kv_heads * size, bias=False)
        self.value = nn.Linear(hidden, shape.kv_heads * size, bias=False)
        self.output = nn.Linear(shape.query_heads * size, hidden, bias=False)
        self.gate = nn.Linear(hidden, shape.mlp, bias=False)
        self.up = nn.Linear(hidden, shape.mlp, bias=False)
        self.down = nn.Linear(shape.mlp, hidden, bias=False)

    def forward(self, x: Tensor, table: RotaryTable, attend: Attend = attend_causally) -> Tensor:
        """x [batch, length, hidden] -> the same shape."""
        batch, length, _ = x.shape
        shape = self.shape
        group = shape.query_heads // shape.kv_heads

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, length, -1, shape.head_dim).transpose(1, 2)

        normed = self.attention_norm(x)
        query = rotate(heads(self.query(normed)), table)
        key = rotate(heads(self.key(normed)), table).repeat_interleave(group, 1)
        value = heads(self.value(normed)).repeat_interleave(group, 1)
        mixed = attend(self.index, query, key, value)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, -1))
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Llama(nn.Module):
    """Decoder with tied embeddings."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, index) for index in range(shape.layers))
        self.norm = RmsNorm(shape.hidden)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for layer in self.layers:
            for name, module in layer.named_children():
                if isinstance(module, nn.Linear):
                    # What writes to the residual starts at half the size.
                    scale = 0.35 if name in ("output", "down") else 0.7
                    nn.init.normal_(module.weight, std=scale / math.sqrt(module.in_features))

    def hidden(self, embedded: Tensor, table: RotaryTable, attend: Attend = attend_causally) -> Tensor:
        """Normed last hidden states [batch, length, hidden] of embedded rows of the same shape."""
        x = embedded
        for layer in self.layers:
            x = layer(x, table, attend)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocabulary]."""
        return F.linear(hidden, self.embedding.weight)

    def forward(self, ids: Tensor, table: RotaryTable, attend: Attend = attend_causally) -> Tensor:
        """ids [batch, length] -> logits [batch, length, vocabulary]."""
        return self.logits(self.hidden(self.embedding(ids), table, attend))

    def loss(self, ids: Tensor, targets: Tensor, weights: Tensor, table: RotaryTable) -> Tensor:
        """Weighted mean cross entropy of `targets`, as `ids` and `weights` [batch, length]."""
        return weighted_cross_entropy(self(ids, table), targets, weights)

    def table(self, length: int) -> RotaryTable:
        """The rotary table of positions 0 to length - 1."""
        return rotary_table(torch.arange(length)[None], self.shape.head_dim, self.shape.rope_theta)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean of the cross entropies [batch, length] by `weights`, in fp32."""
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum().clamp_min(1.0)
