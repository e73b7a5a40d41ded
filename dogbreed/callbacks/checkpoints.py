"""How a training keeps its state: written atomically, without a copy in memory."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dogbreed.callbacks.weight_averaging import AveragedWeights
from dogbreed.errors import UserError
from dogbreed.system.atomic import atomic_write

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is whole.

    Lightning's own writer builds the file in memory first, which doubles a trial's peak; and a process killed while
    it writes must not leave half a `last.ckpt` in place of the whole one before.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes `checkpoint` to the local file `path`.

        Raises:
            UserError: it cannot be written, for instance because the disk is full; what was there before is kept.
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


class BestCheckpoint(ModelCheckpoint):
    """Keeps the weights of the best epoch in `folder/best.ckpt`: those that were validated.

    Epochs of a head on kept features take less time than a file. Weights of such wait in the CPU's memory until the
    file is due, another checkpoint is saved, or the training ends, however it does.

    Args:
        folder: where to.
        metric: name of the logged metric that decides.
        goal: `maximize` or `minimize`.
        averaging: whose average is validated; None: the weights themselves are.
        every_s: seconds between two writings.

    Attributes:
        since: first epoch that was compared; not 0 where a training is resumed whose best weights are gone.
    """

    since = 0

    def __init__(
        self, folder: str, metric: str, goal: str, averaging: AveragedWeights | None = None, *, every_s: float = 0.0
    ) -> None:
        super().__init__(
            folder, "best", monitor=metric, mode=goal[:3], save_weights_only=True, enable_version_counter=False
        )
        self.averaging = averaging
        self.every_s = every_s
        self._written_at = time.monotonic()
        self._waiting: dict[str, Any] | None = None
        self._goes_on = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the best so far, which is copied where this training has another folder."""
        best, mine = state_dict["best_model_path"], str(Path(self.dirpath or "", "best.ckpt"))
        if best and not Path(best).is_file():
            log.warning("the best model so far, %s, is gone: the best of the epochs that follow is kept", best)
            return
        if best and best != mine:
            atomic_write(Path(mine), lambda part: shutil.copyfile(best, part))
            models = {mine: state_dict["best_model_score"]}
            paths = dict.fromkeys(("best_model_path", "kth_best_model_path"), mine)
            state_dict = {**state_dict, **paths, "best_k_models": models, "last_model_path": ""}
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
        self._goes_on = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes what is compared from here on."""
        super().on_train_start(trainer, pl_module)
        self.since = 0 if self._goes_on else trainer.current_epoch

    on_train_batch_end = pl.Callback.on_train_batch_end  # nothing is due after a batch, which Lightning's own looks up

    def is_in_place(self, trainer: pl.Trainer) -> bool:
        """Returns whether the model has the best weights anyway: those after its last step."""
        return self.averaging is None and self._last_global_step_saved == trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves if the epoch was the best so far."""
        with self.averaging.in_place(pl_module) if self.averaging else nullcontext():
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, where validations are more or less frequent than epochs."""
        with self.averaging.in_place(pl_module) if self.averaging else nullcontext():
            super().on_validation_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        """Writes what waits: who goes on from the other checkpoint is told that this one is there."""
        self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what waits."""
        super().on_train_end(trainer, pl_module)
        self._write(trainer)
        trainer.strategy.barrier("best.ckpt")  # which all processes will load

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes what waits."""
        super().on_exception(trainer, pl_module, exception)
        self._write(trainer)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        if _is_due(trainer, self._written_at, self.every_s):
            self._waiting, self._written_at = None, time.monotonic()
            return super()._save_checkpoint(trainer, filepath)
        self._waiting = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
        weights = self._waiting["state_dict"].items()
        self._waiting["state_dict"] = {name: value.to("cpu", copy=True) for name, value in weights}
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath

    def _write(self, trainer: pl.Trainer) -> None:
        if self._waiting is not None:
            trainer.strategy.save_checkpoint(self._waiting, self._last_checkpoint_saved)
            self._waiting, self._written_at = None, time.monotonic()


class LastCheckpoint(Checkpoint):
    """Keeps the whole state, optimizer included, in one file to go on from: now and then, and at the end.

    The state of torch's random numbers is part of it: a resumed training then drops out what it would have.

    Args:
        path: of the file.
        every_s: seconds between two of them, also within an epoch.
        at_end: save at the end too.
    """

    def __init__(self, path: Path, every_s: float, *, at_end: bool = True) -> None:
        self.path = path
        self.every_s = every_s
        self.at_end = at_end
        self._saved_at = time.monotonic()
        self._saved_step = -1
        self._chance: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of torch's random numbers, of the GPU's too."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps what `on_train_start` sets: what is made until then draws random numbers too."""
        self._chance = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Goes on with the random numbers of the checkpoint."""
        if self._chance:
            torch.set_rng_state(self._chance["cpu"].cpu())
            if self._chance["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._chance["cuda"].cpu())

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Saves if it is time, between two steps of the optimizer: gradients are not kept."""
        if not trainer.fit_loop._should_accumulate():
            self._save_if_time(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves if it is time."""
        self._save_if_time(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves what came after the last one, if it is to."""
        if self.at_end and trainer.global_step != self._saved_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Saves now; under DDP all processes must call it."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path)
            self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _save_if_time(self, trainer: pl.Trainer) -> None:
        if _is_due(trainer, self._saved_at, self.every_s):
            self.save(trainer)


def _is_due(trainer: pl.Trainer, written_at: float, every_s: float) -> bool:
    """Returns whether it is time for the next file: in all processes, whose clocks differ, or in none."""
    due = time.monotonic() - written_at >= every_s
    return trainer.strategy.reduce_boolean_decision(due, all=False)
