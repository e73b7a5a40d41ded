"""Reads the rows of `debug/timings.jsonl` into step times and heartbeats. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.read.assemble import Row
from dogbreed.debugger.series import PARTS, StepTimes


@dataclass
class _Session:
    """What one process wrote."""

    steps: list[Row] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    """During validation, seconds since the epoch."""
    phases: list[Row] = field(default_factory=list)
    """Seconds since the process began; the last row counts."""


def timing_inputs(rows: Sequence[Row]) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Returns (the inputs `step_times` and `heartbeats`, additional settings of the run, seconds by phase)."""
    sessions = _sessions(rows)
    phases: Counter[str] = Counter()  # of seconds
    settings: dict[str, Any] = {}
    heartbeats: NDArray[np.float64] = np.empty(0)
    for session in sessions:
        times = _step_times(session.steps)
        if len(heartbeats) and session.steps:  # the pause before a training was resumed is not a stall
            heartbeats += times.ends_s[0] - times.total[0] - heartbeats[-1]
        heartbeats = np.concatenate([heartbeats, np.sort(np.concatenate([times.ends_s, session.heartbeats]))])
        for row in session.phases:
            settings |= row.get("settings", {})
        # A session that was killed has no phases.
        phases.update(session.phases[-1]["seconds"] if session.phases else {"train": float(times.total.sum())})
    if not len(heartbeats):
        return {}, settings, dict(phases)
    times = _step_times([row for session in sessions for row in session.steps])
    return {"step_times": replace(times, phases_s=dict(phases)), "heartbeats": heartbeats}, settings, dict(phases)


def _sessions(rows: Sequence[Row]) -> list[_Session]:
    """Splits the rows by process: one that resumes a training counts steps and seconds from 0 again."""
    sessions = [_Session()]
    for row in rows:
        last = sessions[-1]
        if row.get("kind") == "steps":
            if last.steps and row["steps"][0] <= last.steps[-1]["steps"][-1]:
                sessions.append(_Session())
            sessions[-1].steps.append(row)
        elif row.get("kind") == "heartbeat":
            last.heartbeats.append(float(row["time"]))
        elif row.get("kind") == "phases":
            if last.phases and any(row["seconds"].get(k, 0) < s for k, s in last.phases[-1]["seconds"].items()):
                sessions.append(_Session())
            sessions[-1].phases.append(row)
    return sessions


def _step_times(rows: Sequence[Row]) -> StepTimes:
    parts = {name: np.array([v for row in rows for v in row["parts"].get(name, ())]) for name in PARTS}
    steps, epochs = (np.array([v for row in rows for v in row[k]], dtype=np.int64) for k in ("steps", "epochs"))
    return StepTimes(steps, parts, epochs, np.array([value for row in rows for value in row["ends"]]))
