"""The running average of the weights that sampling uses."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Exponential moving average of a module's parameters, warming up as (1 + step) / (10 + step)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's weights after optimiser step number ``step`` (from 0)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        # All weights in a few kernels: one a weight would cost a GPU more than the arithmetic.
        move = get_ema_multi_avg_fn(keep)  # type: ignore[no-untyped-call]
        move(list(self.weights.values()), [p.detach() for p in module.parameters()], None)
