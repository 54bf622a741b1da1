"""What text and vision runs share: the loop, its log, checkpoints, and resuming to the same state."""

import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from .optimisers import Optimisers
from .plan import SightPlan, TextPlan

_SMOOTHING = 0.95
_LOG_EVERY = 20
"""Steps."""


class Run(ABC):
    """A model on its way: every step depends only on the plan, the data and the state that checkpoints hold."""

    def __init__(self, plan: TextPlan | SightPlan, model: nn.Module) -> None:
        self.plan, self.model = plan, model
        self.optimisers = Optimisers(model, plan.schedule)
        self.rng = random.Random(plan.seed)
        self.step = 0
        self.average_loss: float | None = None

    @abstractmethod
    def loss(self) -> Tensor:
        """The loss of the next batch, drawn from `self.rng`."""

    def advance(self, until: int, log: Callable[[str], None] = lambda _line: None) -> None:
        """Trains up to step `until`, at most the plan's last one."""
        started, first = time.monotonic(), self.step
        autocast = torch.autocast("cpu", torch.bfloat16) if self.plan.bf16 else nullcontext()
        while self.step < min(until, self.plan.schedule.steps):
            with autocast:
                loss = self.loss()
            if not torch.isfinite(loss):
                raise TrainingError(f"step {self.step}: expected a finite loss, got {loss.item()}")
            loss.backward()
            self.optimisers.step(self.step)
            self.step += 1
            self._smooth(loss.item())
            if self.step % _LOG_EVERY == 0 or self.step == self.plan.schedule.steps:
                pace = (time.monotonic() - started) / (self.step - first)
                log(f"step {self.step}/{self.plan.schedule.steps} loss {self.average_loss:.3f} {pace:.2f} s/step")

    def _smooth(self, loss: float) -> None:
        before = self.average_loss
        self.average_loss = loss if before is None else _SMOOTHING * before + (1 - _SMOOTHING) * loss

    def save(self, file: Path) -> None:
        """Writes a checkpoint; an interruption leaves the one before it whole."""
        state = {
            "plan": asdict(self.plan),
            "model": self.model.state_dict(),
            "muon": self.optimisers.muon.state_dict(),
            "adam": self.optimisers.adam.state_dict(),
            "random": self.rng.getstate(),
            "step": self.step,
            "average_loss": self.average_loss,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, file)

    def resume(self, file: Path) -> None:
        """Goes on where a checkpoint of the same plan stopped."""
        state = read_checkpoint(file)
        if state["plan"] != asdict(self.plan):
            raise TrainingError(f"--resume: expected a checkpoint of the same plan, got another one in {file}")
        self.model.load_state_dict(state["model"])
        self.optimisers.muon.load_state_dict(state["muon"])
        self.optimisers.adam.load_state_dict(state["adam"])
        self.rng.setstate(state["random"])
        self.step, self.average_loss = state["step"], state["average_loss"]

    def start_from(self, file: Path) -> None:
        """Takes over the weights, and only those, of a checkpoint of a model of the same sizes."""
        state = read_checkpoint(file)
        if state["plan"]["model"] != asdict(self.plan.model):
            raise TrainingError(f"--start: expected a model of {self.plan.model}, got {state['plan']['model']}")
        self.model.load_state_dict(state["model"])


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's tensors, numbers and plan; never runs code from the file."""
    if not file.is_file():
        raise TrainingError(f"expected a checkpoint, got no file {file}")
    return torch.load(file, weights_only=True)
