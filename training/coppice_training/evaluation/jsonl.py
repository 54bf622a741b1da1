"""Reads and writes evaluation sets: one JSON object a line, text as it is."""

import json
from pathlib import Path
from typing import Any

from ..errors import TrainingError

Item = dict[str, Any]


def write_items(file: Path, items: list[Item]) -> None:
    """Writes the file and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
    file.write_text("".join(lines), encoding="utf8")


def read_items(file: Path, limit: int | None = None) -> list[Item]:
    """The first `limit` items; raises TrainingError where there is no such file."""
    if not file.is_file():
        raise TrainingError(f"expected an evaluation set, got no file {file}")
    with file.open(encoding="utf8") as lines:
        items = [json.loads(line) for line in lines]
    return items[:limit]
