"""Rules about time that passes without a step: a stalled training, a slow start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules.base import rule

Settings = Mapping[str, Any]


@rule("StalledTraining", aws_name="StalledTrainingRule", group="training", priority=3)
def stalled_training(heartbeats: NDArray[np.float64], *, threshold: float = 1800.0) -> Outcome:
    """No step was made for a long time.

    The same function watches a training while it runs (`SystemProfiler` asks it every half second) and looks at a
    finished one.

    Args:
        heartbeats: (S,) when steps ended, seconds, ascending; the last one may be "now".
        threshold: Seconds without a step after which a training has stalled (DOC, CFG: 1800).

    Source: DOC 2.1.
    """
    if len(heartbeats) < 2:
        return insufficient(f"{len(heartbeats)} steps were timed; it takes 2", datapoints=len(heartbeats))
    gaps = np.diff(heartbeats)
    long = np.flatnonzero(gaps > threshold)
    if len(long):
        evidence = [Evidence("seconds without a step", "", int(row), float(gaps[row]), threshold) for row in long]
        summary = f"no step for {gaps.max():.0f} s"
        return issue(summary, "data.num_workers=0", evidence, datapoints=len(heartbeats))
    return ok(f"the longest wait was {gaps.max():.1f} s", datapoints=len(heartbeats))


@rule("MaxInitializationTime", aws_name="MaxInitializationTime", group="profiler", priority=70)
def max_initialization_time(settings: Settings, *, threshold: float = 20.0) -> Outcome:
    """It takes long until the first step.

    Args:
        settings: The run's settings; `initialization_s` (start of the process to the first step, or to now where
            there is none yet).
        threshold: Minutes that it may take (DOC, CFG: 20).

    Source: DOC, CFG, SRC 3. AWS cannot evaluate it for PyTorch 2; ours uses the callback's clock.
    """
    seconds = settings.get("initialization_s")
    if not isinstance(seconds, (int, float)):
        return not_applicable("the start of the run was not recorded (not a run of ours)")
    minutes = seconds / 60
    if minutes > threshold:
        seen = Evidence("minutes to the first step", value=minutes, threshold=threshold)
        return issue(f"{minutes:.0f} minutes to the first step", "data.num_workers=2", [seen], datapoints=1)
    return ok(f"{seconds:.0f} s to the first step", datapoints=1)
