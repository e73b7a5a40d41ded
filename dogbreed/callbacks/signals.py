"""StopOnSignal: a clean stop with a checkpoint at SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
import types
from typing import Any

import pytorch_lightning as pl

from dogbreed.callbacks.checkpoints import LastCheckpoint

log = logging.getLogger(__name__)

_STEPS_BETWEEN_SYNCS = 10
"""Optimizer steps between two exchanges of received signals among several processes."""


class TestInterruptedError(Exception):
    """A signal interrupted a test; the model is trained and unchanged."""

    __test__ = False  # no class of tests


class StopOnSignal(pl.Callback):
    """Stops a training between two optimizer steps at SIGTERM or Ctrl-C, with a checkpoint to resume from.

    A second signal ends the process immediately. SageMaker sends SIGTERM 120 s before it reclaims a machine, so the
    interrupted epoch is not validated: `trainer.limit_val_batches` is 0 from the stop until the fit ends. A test is
    ended by `TestInterruptedError`. The signal handlers of the process are replaced while a fit or test runs.

    Attributes:
        received: The signal, None if there was none.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last
        self.received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._limit_val_batches: float | int | None = None
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Installs the signal handlers, in place of Lightning's, which stop without a checkpoint."""
        self._step = trainer.global_step
        self._install()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Installs the signal handlers for a test too."""
        self._install()

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers.setdefault(number, signal.signal(number, self._receive))

    def on_test_batch_end(self, *_: Any) -> None:
        """Ends a test that a signal interrupts.

        Raises:
            TestInterruptedError: A signal was received.
        """
        if self.received:
            raise TestInterruptedError(self.received.name)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restores the signal handlers and the trainer's validation."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        if self._limit_val_batches is not None:
            trainer.limit_val_batches, self._limit_val_batches = self._limit_val_batches, None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Does so after a failed fit, for which Lightning does not call `teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)
        log.warning("%s received: stopping after this batch", self.received.name)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Saves and stops after an optimizer step, if any process of the training received a signal."""
        step, self._step = self._step, trainer.global_step
        if trainer.should_stop or step == trainer.global_step:
            return  # gradients that are still accumulating are not part of a checkpoint
        if trainer.world_size > 1 and trainer.global_step % _STEPS_BETWEEN_SYNCS:
            return
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            self.received = self.received or signal.SIGTERM
            self.last.save(trainer)
            self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0
            trainer.should_stop = True
