"""The two optimisers of every run, and how they follow the schedule."""

from torch import nn
from torch.optim import AdamW

from ..model.muon import Muon
from .plan import Schedule

_NOT_HIDDEN = ("embedding", "position", "auxiliary")


class Optimisers:
    """Muon for hidden matrices, AdamW for embeddings, norms, biases and auxiliary heads."""

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        self.schedule = schedule
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            is_hidden = parameter.dim() == 2 and not any(part in name for part in _NOT_HIDDEN)
            (matrices if is_hidden else others).append(parameter)
        self.muon = Muon(matrices, lr=schedule.muon_rate)
        self.adam = AdamW(others, lr=schedule.adam_rate, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, step: int) -> None:
        """Takes step number `step` (from 0) and drops the gradients."""
        factor = self.schedule.factor(step)
        self.muon.param_groups[0]["lr"] = self.schedule.muon_rate * factor
        self.adam.param_groups[0]["lr"] = self.schedule.adam_rate * factor
        for optimiser in (self.muon, self.adam):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
