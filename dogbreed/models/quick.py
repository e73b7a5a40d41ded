"""A LightningModule that spares Lightning work at each step.

A step of a head on kept features takes a millisecond, of which Lightning's own work around it is the larger part.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytorch_lightning as pl
import torch


class QuickModule(pl.LightningModule):
    """Does what any LightningModule does, and of it at each step no more than it has to."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Puts its signature on `training_step`.

        Lightning asks before each step which arguments that takes, and to find out takes three times as long.
        """
        super().__init_subclass__(**kwargs)
        if "training_step" in vars(cls):
            cls.training_step.__signature__ = inspect.signature(cls.training_step)  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; at once where it is the hook that runs, which Lightning notes 40 times a step."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Drops the gradients, as the optimizer's own does, without what it tells torch's profiler each time."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips gradients where the trainer is to; elsewhere Lightning would still look up how."""
        if gradient_clip_val:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
