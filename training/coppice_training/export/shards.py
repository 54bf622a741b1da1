"""Writes weights as safetensors, in several files with an index where one would be too large."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import TrainingError

SHARD_BYTES = 15_000_000
_HEADER_BYTES_A_TENSOR = 200
"""More than a name, a shape and two offsets take."""


def write_weights(folder: Path, weights: dict[str, Tensor], dtype: torch.dtype, shard_bytes: int = SHARD_BYTES) -> int:
    """Writes model.safetensors, or shards of at most `shard_bytes` and an index; returns the bytes of all tensors."""
    converted = {name: tensor.detach().to(dtype).contiguous() for name, tensor in weights.items()}
    shards = _split(converted, shard_bytes)
    total = sum(tensor.nbytes for tensor in converted.values())
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return total
    places = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf8")
    return total


def _split(weights: dict[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in weights.items():
        size = tensor.nbytes + _HEADER_BYTES_A_TENSOR
        if size > shard_bytes:
            raise TrainingError(f"expected shards of at least {size} bytes, for {name}, got {shard_bytes}")
        if used + size > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += size
    return shards
