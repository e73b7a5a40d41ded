"""Rules about time without a step: a stalled training, a slow start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, Suggestion, counted, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules.base import Settings, rule


@rule("StalledTraining", aws_name="StalledTrainingRule", group="training", priority=3)
def stalled_training(heartbeats: NDArray[np.float64], *, threshold: float = 1800.0) -> Outcome:
    """Detects a long time without a step.

    `SystemProfiler` evaluates the same function twice a second while the training runs.

    Args:
        heartbeats: (S,) seconds, ascending, at which steps ended; the last one may be now.
        threshold: Seconds without a step. AWS: 1800.

    Statuses:
        issue: A gap is longer than the threshold.
        insufficient_data: Fewer than 2 steps were timed.

    Source: AWS.
    """
    if len(heartbeats) < 2:
        return insufficient(f"{counted(len(heartbeats), 'timed step')}, 2 needed", datapoints=len(heartbeats))
    gaps = np.diff(heartbeats)
    evidence = [
        Evidence("seconds without a step", "", int(row), float(gaps[row]), threshold)
        for row in np.flatnonzero(gaps > threshold)
    ]
    if evidence:
        suggestion = Suggestion("load images in the main process, to see what hangs", "data.num_workers", 0)
        return issue(f"no step for {gaps.max():.0f} s", suggestion, evidence, datapoints=len(heartbeats))
    return ok(f"the longest wait was {gaps.max():.1f} s", datapoints=len(heartbeats))


@rule("MaxInitializationTime", aws_name="MaxInitializationTime", group="profiler", priority=70)
def max_initialization_time(settings: Settings, *, threshold: float = 20.0) -> Outcome:
    """Detects a long start: it takes many minutes until the first step.

    Args:
        settings: The run's settings; `initialization_s`, seconds from the start of the process to the first step.
        threshold: Minutes. AWS: 20.

    Statuses:
        issue: The start took longer than the threshold.
        not_applicable: The start was not recorded.

    Source: AWS, which cannot evaluate it for PyTorch 2.
    """
    seconds = settings.get("initialization_s")
    if not isinstance(seconds, (int, float)):
        return not_applicable("the start of the run was not recorded")
    minutes = seconds / 60
    text = f"{minutes:.1f} minutes to the first step"
    if minutes <= threshold:
        return ok(f"{text}, {threshold:g} are allowed", datapoints=1)
    suggestion = Suggestion("find what the start waits for: listing the data, loading weights or computing features")
    return issue(text, suggestion, [Evidence(text, value=minutes, threshold=threshold)], datapoints=1)
