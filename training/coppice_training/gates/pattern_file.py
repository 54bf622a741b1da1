"""Gates as files in the format that DuoAttention's authors publish, and coppice reads."""

from pathlib import Path

import torch
from torch import Tensor

from ..errors import TrainingError
from ..export.configs import write_json

GATES_FILE = "full_attention_heads.tsv"


def write_gates(folder: Path, gates: Tensor, sink: int, recent: int, origin: dict[str, object]) -> None:
    """Writes gates [layers, KV heads], a line a layer, and config.json with the sizes and how they were found."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(f"{gate:.18e}" for gate in row) for row in gates.tolist()]
    (folder / GATES_FILE).write_text("\n".join(lines) + "\n", encoding="ascii")
    write_json(folder / "config.json", {"sink_size": sink, "recent_size": recent, **origin})


def read_gates(folder: Path, layers: int, kv_heads: int) -> Tensor:
    """[layers, KV heads]; raises TrainingError where the file is missing or has other sizes."""
    file = folder / GATES_FILE
    if not file.is_file():
        raise TrainingError(f"expected gates, got no file {file}")
    rows = [[float(gate) for gate in line.split("\t")] for line in file.read_text(encoding="ascii").splitlines()]
    if [len(row) for row in rows] != [kv_heads] * layers:
        expected = f"expected {layers} lines of {kv_heads} gates"
        raise TrainingError(f"{file}: {expected}, got lines of {[len(row) for row in rows]}")
    return torch.tensor(rows).clamp(0, 1)
