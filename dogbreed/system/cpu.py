"""The CPUs that this process may run on, which can be fewer than the machine has."""

from __future__ import annotations

import os


def cpu_ids() -> list[int]:
    """Returns the ids of the CPUs in this process's affinity mask, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_count() -> int:
    """Returns the number of CPUs in this process's affinity mask."""
    return len(cpu_ids())
