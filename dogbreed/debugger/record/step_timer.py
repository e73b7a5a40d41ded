"""Divides the time of a training step by listening to what Lightning tells its own profiler.

Lightning announces every action (fetching a batch, the training step, backward, the optimizer, each hook of each
callback). `StepTimer` stands in for the trainer's profiler, hands everything on to it, and counts each action's own
time, that of actions inside it taken off. On a GPU these are the times of the host: work is queued there, and a step
that waits for the device shows it where it waits; their sum is right.
"""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pytorch_lightning.profilers import PassThroughProfiler, Profiler

from dogbreed.debugger.series import PARTS

_ENDINGS = {
    "data": ("train_dataloader_next", ".batch_to_device", ".on_before_batch_transfer", ".on_after_batch_transfer"),
    "forward": (".training_step",),
    "backward": (".backward",),
    "optimizer": (".optimizer_step", ".optimizer_zero_grad", ".lr_scheduler_step"),
}


@functools.cache  # asked a hundred times a step, for the same few actions
def part_of(action: str) -> str | None:
    """Returns which of `PARTS` an action of Lightning belongs to, None: to the action around it."""
    if action.startswith("[Callback]"):
        return "callbacks"
    return next((part for part, endings in _ENDINGS.items() if action.endswith(endings)), None)


class StepTimer(Profiler):
    """Counts where the time of training steps goes.

    Args:
        inner: The trainer's own profiler; it hears everything too.
        clock: Seconds; another one in tests.
    """

    def __init__(self, inner: Profiler, clock: Any = time.perf_counter) -> None:
        super().__init__()
        self.inner = inner
        self.clock = clock
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._part = "other"
        self._around: list[str] = []
        self._since = clock()
        self._blocks: dict[str | None, AbstractContextManager[Any]] = {part: _Block(self, part) for part in PARTS}
        self._blocks[None] = nullcontext()

    def start(self, action_name: str) -> None:
        """An action begins: the time so far belongs to the one around it."""
        self.enter(part_of(action_name) or self._part)
        self.inner.start(action_name)

    def stop(self, action_name: str) -> None:
        """An action ends."""
        self.inner.stop(action_name)
        self.leave()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Counts an action from here to the end of the block; as quickly as can be where no one else listens."""
        if isinstance(self.inner, PassThroughProfiler):
            return self._blocks[part_of(action_name)]
        return super().profile(action_name)

    def enter(self, part: str) -> None:
        """From here on the time is that of `part`."""
        self._count()
        self._around.append(self._part)
        self._part = part

    def leave(self) -> None:
        """From here on the time is that of the part around."""
        self._count()
        if self._around:
            self._part = self._around.pop()

    def _count(self) -> None:
        now = self.clock()
        self.seconds[self._part] += now - self._since
        self._since = now

    def take(self) -> dict[str, float]:
        """Returns the seconds of each part since the last call, and starts anew."""
        self._count()
        taken = self.seconds
        self.seconds = dict.fromkeys(PARTS, 0.0)
        return taken

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Hands on to the trainer's own profiler."""
        self.inner.setup(stage, local_rank, log_dir)

    def teardown(self, stage: str | None) -> None:
        """Hands on to the trainer's own profiler."""
        self.inner.teardown(stage)

    def summary(self) -> str:
        """Returns the summary of the trainer's own profiler."""
        return self.inner.summary()

    def describe(self) -> None:
        """Hands on to the trainer's own profiler."""
        self.inner.describe()


class _Block:
    """An action that belongs to a part; nothing of it but the part counts, so that it may be entered again inside."""

    __slots__ = ("part", "timer")

    def __init__(self, timer: StepTimer, part: str) -> None:
        self.timer = timer
        self.part = part

    def __enter__(self) -> None:
        self.timer.enter(self.part)

    def __exit__(self, *_: object) -> None:
        self.timer.leave()
