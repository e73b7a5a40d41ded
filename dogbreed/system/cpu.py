"""The cores that this process may be scheduled on: not all that the machine has."""

from __future__ import annotations

import os


def numbers() -> list[int]:
    """Returns their numbers, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def count() -> int:
    """Returns how many there are."""
    return len(numbers())
