"""Attention that mixes full and streaming heads by gates."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.llama import Attend, attend_causally


@lru_cache(maxsize=8)
def streaming_mask(length: int, sink: int, recent: int) -> Tensor:
    """[length, length], true where a streaming head looks: the first `sink` tokens and the last `recent`."""
    row, column = torch.arange(length)[:, None], torch.arange(length)[None]
    return (column <= row) & ((column < sink) | (row - column < recent))


def gated(gates: Tensor, sink: int, recent: int) -> Attend:
    """gates [layers, KV heads] in 0 to 1: 1 = full attention, 0 = streaming, between them a mixture of both outputs."""

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        full = attend_causally(layer, query, key, value)
        mask = streaming_mask(query.shape[2], sink, recent)
        streaming = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        group = query.shape[1] // gates.shape[1]
        gate = gates[layer].clamp(0, 1).repeat_interleave(group)[None, :, None, None]
        return gate * full + (1 - gate) * streaming

    return attend
