"""Checkpoints of a training: the best weights, and the full state to resume from, both written atomically."""

from __future__ import annotations

import logging
import math
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dogbreed.callbacks.weight_averaging import AveragedWeights
from dogbreed.errors import UserError
from dogbreed.system.atomic import atomic_write

log = logging.getLogger(__name__)

_STEPS_BETWEEN_SYNCS = 10
"""Optimizer steps between two agreements of several processes on whether a checkpoint is due."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and without the copy in memory that Lightning's own writer makes."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint` to the local file `path`.

        Raises:
            UserError: The file cannot be written, for example because the disk is full; an older file is kept.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, lambda part: torch.save(checkpoint, part))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            reason = str(error).splitlines()[0]
            raise UserError(
                f"checkpoint {path} cannot be written ({reason}): free some space, or give another output_dir"
            ) from error


class BestCheckpoint(Checkpoint):
    """Keeps the weights of the best epoch in `folder/best.ckpt`.

    Epochs are compared when they end, by a metric that was logged in them; the first of several equal epochs wins.
    Epochs without the metric (no validation ran) or with a value that is not finite are not compared.

    Args:
        folder: Folder of the checkpoint.
        metric: Name of the logged metric.
        goal: `maximize` or `minimize`.
        averaging: Callback whose averaged weights are validated, and so saved; None: the model's own.

    Attributes:
        path: Path of the checkpoint, empty until there is one.
        score: Best value of the metric so far.
        since: First epoch that was compared: above 0 for a resumed training whose best weights are gone.
    """

    def __init__(self, folder: str | Path, metric: str, goal: str, averaging: AveragedWeights | None = None) -> None:
        self.folder = Path(folder)
        self.metric = metric
        self.sign = 1 if goal == "maximize" else -1
        self.averaging = averaging
        self.path = ""
        self.score = math.nan
        self.since = 0
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """Returns path and score of the best checkpoint."""
        return {"path": self.path, "score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best checkpoint; it is copied if this training has another folder."""
        best, own = state_dict["path"], str(self.folder / "best.ckpt")
        if best and not Path(best).is_file():
            log.warning("the best model so far, %s, is gone: only later epochs are compared", best)
            return
        if best and best != own:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(Path(own), lambda part: shutil.copyfile(best, part))
        self.path, self.score = own if best else "", state_dict["score"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the first epoch that is compared."""
        self.since = 0 if self.path else trainer.current_epoch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Marks that the validation metrics are those of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the weights if the epoch is the best so far."""
        validated, self._validated = self._validated, False
        score = float(trainer.callback_metrics.get(self.metric, math.nan))
        if trainer.fast_dev_run or (self.metric.startswith("val") and not validated):  # type: ignore[attr-defined]
            return
        is_best = math.isfinite(score) and not self.sign * score <= self.sign * self.score  # the first score is nan
        if trainer.strategy.reduce_boolean_decision(is_best):
            self.save(trainer, pl_module, score)

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule, score: float) -> None:
        """Saves the current weights as the best; under DDP all processes must call it."""
        path = str(self.folder / "best.ckpt")
        with self.averaging.swapped_in(pl_module) if self.averaging else nullcontext():
            trainer.save_checkpoint(path, weights_only=True)
        self.path, self.score = path, score


class LastCheckpoint(Checkpoint):
    """Saves the full state of a training to one file: every `every_s` seconds, also within epochs, and at the end.

    The state includes torch's random number generators in all processes, so that a resumed training equals an
    uninterrupted one. Each process draws other numbers (for mixup, dropout): process r starts from the seed plus r.

    Args:
        path: Path of the file.
        every_s: Seconds between two checkpoints.
        at_end: Saves at the end too, to continue with more epochs.
    """

    def __init__(self, path: str | Path, every_s: float, *, at_end: bool = True) -> None:
        self.path = Path(path)
        self.every_s = every_s
        self.at_end = at_end
        self._saved_at = time.monotonic()
        self._saved_step = -1
        self._step = 0
        self._rng_state: dict[str, Any] = {}
        self._rng_states: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of torch's random number generators, CPU and GPU: of this process, and of all of them."""
        return {**_rng_state(), "processes": self._rng_states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until `on_train_start`: setting up the training draws random numbers too."""
        self._rng_state = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the random number generators, or starts those of further processes."""
        self._step = trainer.global_step
        rank, states = trainer.global_rank, self._rng_state.get("processes", [])
        state = states[rank] if rank < len(states) else self._rng_state if rank == 0 else {}
        if state:
            torch.set_rng_state(state["cpu"].cpu())
            if state["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda"].cpu())
        elif rank:
            torch.manual_seed(torch.initial_seed() + rank + trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Saves after an optimizer step if it is time; the last step of an epoch waits for its validation."""
        step, self._step = self._step, trainer.global_step
        if step == trainer.global_step or trainer.is_last_batch:
            return  # gradients that are still accumulating are not part of a checkpoint
        if trainer.world_size == 1 or trainer.global_step % _STEPS_BETWEEN_SYNCS == 0:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves if it is time."""
        if not trainer.should_stop:
            self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves at the end, unless the last step is saved already."""
        if self.at_end and trainer.global_step != self._saved_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Saves now; under DDP all processes must call it."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            if trainer.world_size > 1:
                self._rng_states = [{}] * trainer.world_size
                torch.distributed.all_gather_object(self._rng_states, _rng_state())
            trainer.save_checkpoint(self.path)
            self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        due = time.monotonic() - self._saved_at >= self.every_s
        if trainer.strategy.reduce_boolean_decision(due, all=False):  # the clocks of processes differ
            self.save(trainer)


def _rng_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
