"""What happens to the metrics of each epoch: they are printed, and end a training that has diverged."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from dogbreed.callbacks.metric_line import metric_line

log = logging.getLogger(__name__)


class MetricPrinter(Checkpoint):
    """Prints the metric line of each epoch, which a tuning job parses, and keeps all metrics.

    A `Checkpoint` by type, because Lightning calls `on_train_epoch_end` of those after that of the module, when it has
    logged its metrics. Metrics of a validation that did not run in this epoch are omitted.

    Attributes:
        history: Epoch (from 0) to metric name to value; a resumed training starts with the checkpoint's.
    """

    def __init__(self) -> None:
        self.history: dict[int, dict[str, float]] = {}
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """Returns the metrics of all epochs."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the metrics of earlier epochs."""
        self.history = dict(state_dict["history"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Marks that `callback_metrics` has validation metrics of this epoch, not of an earlier one."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints `metrics epoch=3 train/loss=... val/accuracy=...`."""
        prefixes = ("train/", "val/") if self._validated else ("train/",)
        self._validated = False
        names = (name for name in trainer.callback_metrics if name.startswith(prefixes))
        metrics = {name: float(trainer.callback_metrics[name]) for name in names if name != "train/step_loss"}
        self.record(trainer, trainer.current_epoch, metrics)

    def record(self, trainer: pl.Trainer, epoch: int, metrics: dict[str, float]) -> None:
        """Adds the metrics of an epoch and prints them, in one process of the training."""
        self.history[epoch] = metrics
        if trainer.is_global_zero:
            print(metric_line(epoch, metrics), flush=True)


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
