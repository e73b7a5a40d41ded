"""Divides the time of a training step by the actions that Lightning reports to its profiler.

Lightning reports every action: fetching a batch, the training step, backward, the optimizer, each hook of each
callback. `StepTimer` counts each action's own time, without that of nested actions. On a GPU these are host times:
work is queued, and a step that waits for the device shows it in the action that waits; their sum is right.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from pytorch_lightning.profilers import Profiler

from dogbreed.debugger.series import PARTS

_SUFFIXES = {
    "data": ("train_dataloader_next", ".batch_to_device", ".on_before_batch_transfer", ".on_after_batch_transfer"),
    "forward": (".training_step",),
    "backward": (".backward",),
    "optimizer": (".optimizer_step", ".optimizer_zero_grad", ".lr_scheduler_step"),
}


@functools.cache
def part_of(action: str) -> str | None:
    """Returns which of `PARTS` an action of Lightning belongs to, None if to the enclosing action."""
    if action.startswith("[Callback]"):
        return "callbacks"
    return next((part for part, suffixes in _SUFFIXES.items() if action.endswith(suffixes)), None)


class StepTimer(Profiler):
    """A profiler that measures where the time of training steps goes and forwards everything to another one.

    Args:
        inner: The trainer's own profiler.
        clock: Returns seconds.
    """

    def __init__(self, inner: Profiler, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.inner = inner
        self.clock = clock
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._part = "other"
        self._enclosing: list[str] = []
        self._since = clock()

    def start(self, action_name: str) -> None:
        """Starts an action; the time so far belongs to the enclosing one."""
        self._count()
        self._enclosing.append(self._part)
        self._part = part_of(action_name) or self._part
        self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        """Ends an action."""
        self.inner.stop(action_name)
        self._count()
        if self._enclosing:
            self._part = self._enclosing.pop()

    def _count(self) -> None:
        now = self.clock()
        self.seconds[self._part] += now - self._since
        self._since = now

    def take(self) -> dict[str, float]:
        """Returns the seconds of each part since the last call."""
        self._count()
        taken, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return taken

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Forwards to the trainer's own profiler."""
        self.inner.setup(stage, local_rank, log_dir)

    def teardown(self, stage: str | None) -> None:
        """Forwards to the trainer's own profiler."""
        self.inner.teardown(stage)

    def summary(self) -> str:
        """Returns the summary of the trainer's own profiler."""
        return self.inner.summary()

    def describe(self) -> None:
        """Forwards to the trainer's own profiler."""
        self.inner.describe()
