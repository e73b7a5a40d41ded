"""StopOnDivergence: ends a training whose metrics are no longer finite."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

log = logging.getLogger(__name__)


class StopOnDivergence(Checkpoint):
    """Stops after an epoch with a logged metric that is NaN or infinite.

    A `Checkpoint` by type, because Lightning calls `on_train_epoch_end` of those after that of the module.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the training if it has diverged; all processes see the same epoch metrics."""
        for name, value in trainer.callback_metrics.items():
            if name != "train/step_loss" and not torch.isfinite(value).all():
                log.warning("%s is not finite: the training has diverged and stops; try a smaller lr", name)
                trainer.should_stop = True
                return
