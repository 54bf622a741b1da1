"""Counts of right answers by group, the file of reference scores, and how two such files compare."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from .intervals import describe


class Tally:
    """Right answers, similarities and totals of groups that may overlap."""

    def __init__(self) -> None:
        self.right: dict[str, int] = defaultdict(int)
        self.count: dict[str, int] = defaultdict(int)
        self.similarity: dict[str, float] = defaultdict(float)

    def add(self, groups: list[str], right: bool, similarity: float = 0.0) -> None:
        """Counts one answer in each of its groups."""
        for group in groups:
            self.right[group] += right
            self.count[group] += 1
            self.similarity[group] += similarity

    def shares(self) -> dict[str, list[float]]:
        """Group -> share of right answers, number of answers."""
        return {group: [round(self.right[group] / count, 4), count] for group, count in self.count.items()}

    def with_similarity(self) -> dict[str, dict[str, float]]:
        """As shares, with the mean similarity."""
        return {
            group: {
                "exact": round(self.right[group] / count, 4),
                "similarity": round(self.similarity[group] / count, 4),
                "n": count,
            }
            for group, count in sorted(self.count.items())
        }

    def lines(self) -> list[str]:
        """A line a group, with Wilson's interval."""
        return [f"{group}: {describe(self.right[group], count)}" for group, count in self.count.items()]


def write_reference(file: Path, scores: dict[str, Any], outputs: dict[str, str]) -> None:
    """Writes scores and texts; sets and texts of an earlier run that are not among them stay."""
    kept = read_reference(file) if file.exists() else {"scores": {}, "outputs": {}}
    merged = {"scores": kept["scores"] | scores, "outputs": kept["outputs"] | outputs}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n", encoding="utf8")


def read_reference(file: Path) -> dict[str, Any]:
    """A file that write_reference wrote."""
    if not file.is_file():
        raise TrainingError(f"expected a file of reference scores, got no file {file}")
    reference = json.loads(file.read_text(encoding="utf8"))
    if not isinstance(reference, dict) or not {"scores", "outputs"} <= reference.keys():
        raise TrainingError(f"{file}: expected an object with scores and outputs")
    return reference


def compare_outputs(outputs: dict[str, str], reference: Path) -> tuple[int, list[str]]:
    """How many of the texts the reference has too, and the ids of those that differ."""
    known = read_reference(reference)["outputs"]
    shared = [name for name in outputs if name in known]
    return len(shared), [name for name in shared if outputs[name] != known[name]]
