"""Base of the recording callbacks: an error while recording ends the recording, never the training."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import pytorch_lightning as pl

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R", bound="Recorder")


class Recorder(pl.Callback):
    """A callback that records a training without being able to end it.

    Decorate hooks with `safe_hook`: the first error is logged, then the recorder stays disabled. Collective
    operations must stay outside decorated hooks, so that a disabled process still takes part in them.
    """

    is_disabled = False

    def release(self, trainer: pl.Trainer) -> None:
        """Removes hooks, stops threads and closes files; must be safe to call at any time and more than once."""

    def disable(self, trainer: pl.Trainer, error: Exception) -> None:
        """Logs the error and stops recording."""
        log.warning("%s stopped recording: %s: %s", type(self).__name__, type(error).__name__, error)
        self.is_disabled = True
        try:
            self.release(trainer)
        except Exception as second:  # noqa: BLE001 - the cause may fail again, for instance a full disk
            log.debug("%s: cleanup failed too: %s", type(self).__name__, second)


def safe_hook(hook: Callable[Concatenate[R, pl.Trainer, P], None]) -> Callable[Concatenate[R, pl.Trainer, P], None]:
    """Decorates a hook of a `Recorder`: the hook does nothing once disabled, and disables the recorder on an error."""

    @functools.wraps(hook)
    def guarded(self: R, trainer: pl.Trainer, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.is_disabled:
            return
        try:
            hook(self, trainer, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - full disks, odd batches, out of memory: a training must survive all
            self.disable(trainer, error)

    return guarded
