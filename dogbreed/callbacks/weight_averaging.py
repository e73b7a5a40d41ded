"""AveragedWeights: validates, tests and serves a model with the average of its weights over many steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from dogbreed.callbacks.settings import AveragingSettings
from dogbreed.errors import UserError
from dogbreed.system.settings import check

_STARTS = {"ema": 0.0, "swa": 0.75}
"""Fraction of a training's steps after which averaging begins, by kind."""


class AveragedWeights(pl.Callback):
    """Averages the weights over the steps of a training, without changing the training itself.

    The model has the averaged weights during validation and after the fit. Full checkpoints contain both: `state_dict`
    is the average, `current_model_state` the weights in training. Running statistics of batch norms are averaged too.
    For `swa`, a constant learning rate in the averaged part suits the method better than a schedule that decays to 0.
    A weights-only `ModelCheckpoint` of Lightning would contain the weights in training, so it is refused:
    use `BestCheckpoint(averaging=...)`. Put this callback first in the trainer's list.

    Args:
        kind: `ema` for an exponential moving average (Polyak and Juditsky, 1992), which after n updates keeps
            `min(decay, (1 + n) / (10 + n))` of its value, as TensorFlow's does; `swa` for the plain mean over the last
            quarter of the steps (Izmailov et al., Averaging Weights Leads to Wider Optima, 2018).
        decay: For `ema`: 0.999 averages over about 1000 steps.
        start: Fraction of all steps after which averaging begins; None: 0 for `ema`, 0.75 for `swa`.

    Attributes:
        num_updates: Number of averaged steps; until there is one, the model itself is validated and saved.

    Raises:
        UserError: An unknown kind; when a fit begins, an unbounded number of steps with `start` above 0, or a
            `ModelCheckpoint` of weights only.
    """

    def __init__(
        self,
        kind: str = "ema",
        decay: float = AveragingSettings.averaging_decay,
        start: float | None = AveragingSettings.averaging_start,
    ) -> None:
        given = {"averaging": kind, "averaging_decay": decay, "averaging_start": start}
        kind = check(AveragingSettings, given)["averaging"]
        self.kind = kind
        self.decay = decay
        self.start = _STARTS[kind] if start is None else start
        self.num_updates = 0
        self._average: dict[str, Tensor] = {}
        self._first_step = 0
        self._last_step = -1
        self._is_swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts a new average for a new fit."""
        if stage == "fit":
            if any(isinstance(c, ModelCheckpoint) and c.save_weights_only for c in trainer.checkpoint_callbacks):
                raise UserError(
                    "ModelCheckpoint(save_weights_only=True) would save the weights in training, not the average that "
                    "is validated: use dogbreed.callbacks.checkpoints.BestCheckpoint(averaging=...)"
                )
            self.reset(pl_module)

    def reset(self, module: nn.Module) -> None:
        """Starts a new average that covers no step yet."""
        self._average = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.num_updates, self._last_step, self._is_swapped = 0, -1, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Moves the average to the model's device, and computes the first averaged step."""
        self._average = {name: value.to(pl_module.device) for name, value in self._average.items()}
        num_steps = trainer.estimated_stepping_batches if self.start else 0
        if num_steps == float("inf"):
            raise UserError("averaging=swa starts after a fraction of all steps: it needs max_epochs or max_steps")
        self._first_step = int(self.start * num_steps)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Adds the weights after an optimizer step."""
        if trainer.global_step > max(self._last_step, self._first_step):
            self.update(pl_module)
            self._last_step = trainer.global_step

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Adds the current weights of `module` to the average; frozen parameters are skipped."""
        kept = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        weight = 1 - kept if self.kind == "ema" else 1 / (self.num_updates + 1)
        trained = ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
        for name, value in (*trained, *module.named_buffers()):
            average = self._average.get(name)
            if average is None:  # a buffer that is not saved
                continue
            if self.num_updates and average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)
        self.num_updates += 1

    def average(self) -> dict[str, Tensor]:
        """Returns the averaged state dict."""
        return self._average

    @torch.no_grad()
    def _swap(self, module: nn.Module) -> None:
        if self.num_updates:
            for name, value in module.state_dict().items():
                previous = value.clone()
                value.copy_(self._average[name])
                self._average[name].copy_(previous)
            self._is_swapped = not self._is_swapped

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """Loads the averaged weights into `module` within the block."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Loads the averaged weights into the model."""
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the weights in training."""
        self._swap(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restores the weights in training if validation failed."""
        if self._is_swapped:
            self._swap(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the averaged weights in the model after a fit, once the last checkpoint is saved."""
        if stage == "fit":
            if self.num_updates:
                pl_module.load_state_dict(self._average)
            self._average, self.num_updates = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the last averaged step."""
        return {"latest_update_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the last averaged step."""
        self._last_step = state_dict["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Saves the average and the weights in training."""
        if self._average:
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.num_updates)}
            if self.num_updates:
                checkpoint["state_dict"] = self._average

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores both to resume a fit; a test needs only the average, which the model has already loaded."""
        if self._average:
            self._average = {name: value.clone() for name, value in checkpoint["state_dict"].items()}
            if "current_model_state" in checkpoint:
                pl_module.load_state_dict(checkpoint["current_model_state"])
                self.num_updates = int(checkpoint["averaging_state"]["n_averaged"])
