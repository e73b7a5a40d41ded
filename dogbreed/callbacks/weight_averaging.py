"""AveragedWeights: a training is validated, tested and served with the average of its weights over many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from dogbreed.errors import UserError, did_you_mean

_STARTS = {"ema": 0.0, "swa": 0.75}
"""Share of a training's steps after which averaging begins, for each kind."""


class AveragedWeights(WeightAveraging):
    """Averages the weights over the steps of a training; the optimizer goes on with its own.

    `val/*`, the best checkpoint and, once the training has ended, the model itself are those of the average, so that
    is also what is tested and served. A checkpoint to go on from holds both. Running statistics of batch norms are
    averaged like weights. Give it to the trainer as the first callback, and to `BestCheckpoint`.

    Args:
        kind: `ema`, an exponential moving average (Polyak and Juditsky 1992), in which early steps are soon forgotten:
            after n steps it keeps `min(decay, (1 + n) / (10 + n))` of what it was, as TensorFlow's does; or `swa`, the
            plain mean over the last quarter (Izmailov et al., AveragedWeights Weights, 2018).
        decay: For `ema`: with 0.999 it looks back over about 1000 steps.
        start: Share of all steps after which averaging begins; None: 0 for `ema`, 0.75 for `swa`.

    Raises:
        UserError: an unknown kind.
    """

    def __init__(self, kind: str = "ema", decay: float = 0.999, start: float | None = None) -> None:
        if kind not in _STARTS:
            raise UserError(f"averaging={kind} is not allowed{did_you_mean(kind, list(_STARTS))}")
        super().__init__(multi_avg_fn=_moving(decay) if kind == "ema" else None)
        self.start = _STARTS[kind] if start is None else start
        self._first_step = 0

    @property
    def begun(self) -> bool:
        """Whether there is an average; before that, the model itself is what counts."""
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    @contextmanager
    def in_place(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """Lets the model have the averaged weights within the block."""
        begun = self.begun
        if begun:
            self._swap_models(pl_module)
        try:
            yield
        finally:
            if begun:
                self._swap_models(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Brings the average, which Lightning makes on the CPU, to the model's device, and counts its first step.

        Raises:
            UserError: nothing bounds the number of steps.
        """
        assert self._average_model is not None
        self._average_model.to(pl_module.device)
        num_steps = trainer.estimated_stepping_batches if self.start else 0
        if num_steps == float("inf"):
            raise UserError("averaging=swa begins after a share of all steps: it needs max_epochs or max_steps")
        self._first_step = int(self.start * num_steps)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Returns whether the weights after step `step_idx` (from 0) are part of the average."""
        return step_idx is not None and step_idx >= self._first_step

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validates the average."""
        if self.begun:
            self._swap_models(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Goes back to the weights in training."""
        if self.begun:
            self._swap_models(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the weights in training to the last checkpoint, which a training of more epochs goes on from."""

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the average in the model, when all is saved."""
        if stage == "fit":
            if self.begun:
                self._copy_average_to_current(pl_module)
            self._average_model = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Saves both; before there is an average, the model's own weights in its place."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            if not self.begun:
                checkpoint["state_dict"] = checkpoint["current_model_state"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Loads both to go on; for a test the average is all that is wanted, and is loaded already."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


def _moving(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], num_averaged: Tensor) -> None:
        count = int(num_averaged)
        share = 1 - min(decay, (1 + count) / (10 + count))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, share)  # leaves what is frozen as it is, to the last bit
        else:  # how many batches a norm has seen
            torch._foreach_copy_(averages, current)

    return update
