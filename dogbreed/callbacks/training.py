"""Lightning callbacks of every training: the metric line, the clean stop, the end of a training that diverged."""

from __future__ import annotations

import logging
import math
import signal
import types
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from dogbreed.callbacks.checkpoints import LastCheckpoint
from dogbreed.callbacks.metric_line import metric_line

log = logging.getLogger(__name__)


_OF_A_BATCH = (
    "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_validation_batch_start", "on_validation_batch_end", "on_test_batch_start",
    "on_test_batch_end",
)  # fmt: skip
"""Hooks of `pl.Callback` that are called for each batch."""


def unhook_idle(callbacks: Iterable[pl.Callback]) -> None:
    """Spares Lightning the calls to hooks that callbacks do not have: it leaves out those that are None.

    It would prepare, announce and time some seventy of them a step, which takes longer than a head's own step.
    """
    for callback in callbacks:
        for hook in _OF_A_BATCH:
            if getattr(callback, hook).__func__ is getattr(pl.Callback, hook):
                setattr(callback, hook, None)


class MetricLines(Checkpoint):
    """Prints the metric line that a tuning job reads, once an epoch, and keeps the metrics of each epoch.

    A `Checkpoint` by type, because Lightning calls those after the module has logged its epoch, others before.

    Attributes:
        history: epoch (from 0) to metric name to value.
    """

    def __init__(self) -> None:
        self.history: dict[int, dict[str, float]] = {}
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """Returns the metrics so far: a training that is resumed tells those of all its epochs."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with those of a checkpoint."""
        self.history = dict(state_dict["history"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes that the epoch has figures of its own: Lightning keeps those of an earlier one."""
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints `metrics epoch=3 train/loss=... val/accuracy=...`; ends a training whose loss is no number."""
        kinds = ("train/", "val/") if self._validated else ("train/",)
        self._validated = False
        names = (name for name in trainer.callback_metrics if name.startswith(kinds))
        metrics = {name: float(trainer.callback_metrics[name]) for name in names if name != "train/step_loss"}
        self.history[trainer.current_epoch] = metrics
        if trainer.is_global_zero:
            print(metric_line(trainer.current_epoch, metrics), flush=True)
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            log.warning("%s is not a finite number: the training has diverged and is ended; try a smaller lr", bad[0])
            trainer.should_stop = True


class StopOnSignal(pl.Callback):
    """Ends a training between two batches at SIGTERM or Ctrl-C, with a checkpoint; a second signal ends it at once.

    SageMaker sends SIGTERM 120 s before it takes a machine away.

    Args:
        last: saves the state to go on from.

    Attributes:
        received: the signal, once there was one.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens from here on, in place of Lightning, which would end with an exception and no checkpoint."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before.setdefault(number, signal.signal(number, self._note))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)
        log.warning("%s received: stopping after this batch", self.received.name)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Saves and stops, if any process of the training was asked to."""
        if trainer.should_stop or trainer.fit_loop._should_accumulate():
            return  # gradients of half a step are not kept
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            self.received = self.received or signal.SIGTERM
            self.last.save(trainer)
            trainer.should_stop = True
            trainer.limit_val_batches = 0
