from __future__ import annotations

import pytest
from pytorch_lightning.profilers import PassThroughProfiler, Profiler

from dogbreed.debugger.record.step_timer import StepTimer, part_of


class Listener(Profiler):
    """Keeps what starts and stops."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[str] = []

    def start(self, action_name: str) -> None:
        self.actions.append(f"+{action_name}")

    def stop(self, action_name: str) -> None:
        self.actions.append(f"-{action_name}")


def test_step_timer_forwards_to_inner_profiler():
    timer = StepTimer(Listener())
    with timer.profile("run_training_batch"), timer.profile("[Strategy]S.backward"):
        pass
    names = ["run_training_batch", "[Strategy]S.backward"]
    assert timer.inner.actions == [*(f"+{name}" for name in names), *(f"-{name}" for name in reversed(names))]


@pytest.mark.parametrize("inner", [PassThroughProfiler, Listener])
def test_step_timer_counts_own_time_of_nested_actions(inner: type[Profiler]):
    now = [0.0]
    timer = StepTimer(inner(), clock=lambda: now[0])
    for action, seconds in (
        ("[_TrainingEpochLoop].train_dataloader_next", 2), ("[LightningModule]M.optimizer_step", 1),
    ):  # fmt: skip
        with timer.profile(action):
            now[0] += seconds
            if "optimizer" in action:
                with timer.profile("[Strategy]S.training_step"):
                    now[0] += 4
                with timer.profile("[Strategy]S.backward"), timer.profile("[Callback]C.on_after_backward"):
                    now[0] += 8
    now[0] += 16
    taken = timer.take()
    assert taken == {"data": 2, "optimizer": 1, "forward": 4, "backward": 0, "callbacks": 8, "other": 16}
    assert sum(timer.take().values()) == 0
    assert part_of("run_training_batch") is None
