"""Names of sweeps and trials, and the statuses that end a job."""

from __future__ import annotations

import re

TERMINAL = frozenset({"Completed", "Failed", "Stopped", "DeleteFailed"})
"""Final statuses of a sweep or a training job."""

RESERVED_NAMES = ("aws", "endpoints", "published", "downloads")
"""Reserved names, which no sweep or training may have: other folders next to theirs use them."""

_TRIAL = re.compile(r"(?P<sweep>.+)-(?P<number>\d{3,})-[0-9a-f]{8}")
_RESUMED = re.compile(r"(?P<first>.+)-r(?P<number>\d+)")


def trial_name(sweep: str, number: int, token: str) -> str:
    """Returns the name of trial `number` (from 1) as tuning jobs on AWS write it: `SWEEP-001-1a2b3c4d`."""
    return f"{sweep}-{number:03d}-{token}"


def sweep_of(name: str) -> str | None:
    """Returns the sweep that a training job of that name belongs to; None if it is not a trial's name."""
    match = _TRIAL.fullmatch(name)
    return match["sweep"] if match else None


def short_name(name: str) -> str:
    """Returns the number of a trial, `003` for `SWEEP-003-1a2b3c4d`; any other name unchanged.

    Trials of a resumed sweep `SWEEP-r2` are `r2-003`, because its table also shows the trials of `SWEEP`.
    """
    match = _TRIAL.fullmatch(name)
    if match is None:
        return name
    resumed = _RESUMED.fullmatch(match["sweep"])
    return f"r{resumed['number']}-{match['number']}" if resumed else match["number"]


def resumed_name(name: str) -> str:
    """Returns the name of the sweep that resumes sweep `name`: `dogs-r2`, then `dogs-r3`; at most 32 characters."""
    match = _RESUMED.fullmatch(name)
    first, number = (match["first"], int(match["number"])) if match else (name, 1)
    return f"{first[:27]}-r{number + 1}"
