"""The objective of training jobs: final values, statuses, counters and the best job, from their states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from launch.local.job_store import FINAL, Json


def final_objective(state: Mapping[str, Any], objective: Mapping[str, str]) -> float | None:
    """Returns the last value of the objective of an ended job; None if it runs, failed or printed no value."""
    if state.get("status") not in {"Completed", "Stopped"}:
        return None
    value = state.get("metrics", {}).get(objective["MetricName"])
    return None if value is None else float(value[0])


def objective_status(state: Mapping[str, Any], objective: Mapping[str, str]) -> str:
    """Returns AMT's ObjectiveStatus of a training job."""
    if state.get("status") not in FINAL:
        return "Pending"
    return "Failed" if final_objective(state, objective) is None else "Succeeded"


def count_statuses(states: Sequence[Json], objective: Mapping[str, str]) -> tuple[Json, Json]:
    """Returns the TrainingJobStatusCounters and ObjectiveStatusCounters of training jobs."""
    status = Counter(state.get("status", "InProgress") for state in states)
    jobs = {
        "Completed": status["Completed"],
        "InProgress": status["InProgress"] + status["Stopping"],
        "RetryableError": 0,
        "NonRetryableError": status["Failed"],
        "Stopped": status["Stopped"],
    }
    objectives = Counter(objective_status(state, objective) for state in states)
    return jobs, {name: objectives[name] for name in ("Succeeded", "Pending", "Failed")}


def best_job(states: Sequence[Json], objective: Mapping[str, str]) -> Json | None:
    """Returns the state of the training job with the best final objective, the earliest among equals."""
    scored = [(value, state) for state in states if (value := final_objective(state, objective)) is not None]
    if not scored:
        return None
    sign = 1 if objective["Type"] == "Minimize" else -1
    return min(scored, key=lambda pair: sign * pair[0])[1]
