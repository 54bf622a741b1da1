"""Training plans: a model's sizes and its curriculum, read from the TOML files in `plans` or from a user's own."""

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ..data.recall import FACTS_BY_LENGTH
from ..data.sampler import TASKS
from ..errors import TrainingError
from ..model.llama import LlamaShape
from ..model.sight import VisionShape

PLAN_FOLDER = Path(__file__).parent.parent / "plans"


@dataclass(frozen=True)
class Schedule:
    """Learning rates over the steps: up in `warmup_steps`, level, down to `floor` over the last `decay_share`."""

    steps: int
    muon_rate: float
    adam_rate: float
    warmup_steps: int
    decay_share: float
    floor: float

    def factor(self, step: int) -> float:
        """What both rates are multiplied with at a step (from 0)."""
        left = 1 - step / self.steps
        return min(1.0, (step + 1) / self.warmup_steps) * min(1.0, max(self.floor, left / self.decay_share))


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum, up to the share `until` of all steps."""

    until: float
    lengths: dict[str, float]
    """Tokens a sample -> share of the steps."""
    tasks: dict[str, float]
    """Name in data.sampler.TASKS -> share of the samples."""
    gap_share: float = 0.0
    """Samples whose positions jump, so that short texts teach large distances."""


@dataclass(frozen=True)
class TextPlan:
    """All that a text run depends on, beside its data."""

    model: LlamaShape
    schedule: Schedule
    stages: list[Stage]
    tokens_per_step: int
    max_position: int
    context: int
    """Said in the exported configuration."""
    bf16: bool
    structured: bool
    seed: int

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        return next(stage for stage in self.stages if step < stage.until * self.schedule.steps)


@dataclass(frozen=True)
class SightPlan:
    """All that a vision run depends on."""

    vision: VisionShape
    model: LlamaShape
    schedule: Schedule
    vision_only_steps: int
    batch: int
    turns: int
    """Most questions an image."""
    answer_tokens: int
    """Tokens behind the image, padding included."""
    rare_share: float
    """Count, exist and place questions that are kept."""
    auxiliary_weights: list[float]
    """Of the auxiliary losses: before and after 60 % of the steps."""
    context: int
    bf16: bool
    seed: int


_Plan = TypeVar("_Plan")


def plan_file(name: str) -> Path:
    """A plan in this package by its name, or any TOML file by its path; raises TrainingError for neither."""
    file = Path(name) if name.endswith(".toml") else PLAN_FOLDER / f"{name}.toml"
    if not file.is_file():
        known = ", ".join(sorted(plan.stem for plan in PLAN_FOLDER.glob("*.toml")))
        raise TrainingError(f"--plan: expected one of {known}, or a .toml file, got {name!r}")
    return file


def read_plan(name: str, vocabulary: int) -> TextPlan | SightPlan:
    """The plan, its model with that many embeddings; raises TrainingError for keys that are missing or unknown."""
    file = plan_file(name)
    try:
        table = tomllib.loads(file.read_text(encoding="utf8"))
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{file}: expected TOML: {error}") from error
    return make_plan(table | {"model": {**_table(table, "model", str(file)), "vocabulary": vocabulary}}, str(file))


def make_plan(table: dict[str, Any], where: str) -> TextPlan | SightPlan:
    """A plan from nested tables, as `dataclasses.asdict` makes them; a `vision` table makes it a vision plan."""
    parts: dict[str, Any] = dict(table)
    parts["model"] = _build(LlamaShape, _table(table, "model", where), f"{where}: model")
    parts["schedule"] = _build(Schedule, _table(table, "schedule", where), f"{where}: schedule")
    if "vision" in table:
        parts["vision"] = _build(VisionShape, _table(table, "vision", where), f"{where}: vision")
        return _build(SightPlan, parts, where)
    parts["stages"] = [_build(Stage, stage, f"{where}: stages") for stage in table.get("stages", [])]
    plan = _build(TextPlan, parts, where)
    _check_stages(plan, where)
    return plan


def text_plan(plan: TextPlan | SightPlan) -> TextPlan:
    """The plan, if it is one for text."""
    if not isinstance(plan, TextPlan):
        raise TrainingError("expected a plan for text, got one with a vision table")
    return plan


def sight_plan(plan: TextPlan | SightPlan) -> SightPlan:
    """The plan, if it is one for vision."""
    if not isinstance(plan, SightPlan):
        raise TrainingError("expected a plan with a vision table, got one for text")
    return plan


def _table(table: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise TrainingError(f"{where}: expected a table {key!r}")
    return value


def _build(kind: type[_Plan], values: dict[str, Any], where: str) -> _Plan:
    known = fields(kind)  # type: ignore[arg-type]
    unknown = values.keys() - {field.name for field in known}
    missing = {field.name for field in known if field.default is MISSING} - values.keys()
    if unknown or missing:
        wrong = [f"without {name}" for name in sorted(missing)] + [f"with unknown {name}" for name in sorted(unknown)]
        raise TrainingError(f"{where}: got a table {', '.join(wrong)}")
    return kind(**values)


def _check_stages(plan: TextPlan, where: str) -> None:
    ends = [stage.until for stage in plan.stages]
    if not ends or ends != sorted(ends) or ends[-1] != 1.0:
        raise TrainingError(f"{where}: expected stages with ascending `until`, the last 1.0, got {ends}")
    for stage in plan.stages:
        for task in stage.tasks.keys() - TASKS.keys():
            raise TrainingError(f"{where}: expected tasks of {', '.join(TASKS)}, got {task!r}")
        for length in stage.lengths:
            if not length.isdigit() or int(length) not in FACTS_BY_LENGTH or int(length) > plan.max_position:
                limit = f"{', '.join(map(str, FACTS_BY_LENGTH))} up to max_position {plan.max_position}"
                raise TrainingError(f"{where}: expected lengths of {limit}, got {length}")
