"""CPU and memory limits of this process's container (cgroup v2 or v1), and what the container uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from dogbreed.system.cpu import cpu_count

CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2**63."""


@dataclass(frozen=True)
class Limits:
    """CPU and memory limits of this process."""

    cores: float
    """CPU cores; fractional under a CPU quota."""
    memory_bytes: int
    is_limited: bool
    """Whether a cgroup sets one of them below what the host has."""


def read_limits(root: Path = CGROUP, host_cores: int | None = None, host_memory: int | None = None) -> Limits:
    """Returns the cgroup's limits under `root`; without a limit, the host's cores and memory.

    The host's cores are those that this process may be scheduled on (its affinity).
    """
    num_cores = float(host_cores or cpu_count())
    memory = host_memory or psutil.virtual_memory().total
    quota = _cpu_quota(root)
    limit = _number(root / "memory.max") or _number(root / "memory" / "memory.limit_in_bytes")
    is_limited = (quota is not None and quota < num_cores) or (limit is not None and limit < memory)
    if quota is not None:
        num_cores = min(num_cores, quota)
    if limit is not None and limit < _UNLIMITED:
        memory = min(memory, limit)
    return Limits(num_cores, memory, is_limited)


def used_memory(root: Path = CGROUP) -> int | None:
    """Returns the bytes that the container uses without its inactive file cache, None without a cgroup."""
    for usage, statistics, cache in (
        (root / "memory.current", root / "memory.stat", "inactive_file"),
        (root / "memory" / "memory.usage_in_bytes", root / "memory" / "memory.stat", "total_inactive_file"),
    ):
        used = _number(usage)
        if used is not None:
            return max(0, used - _field(statistics, cache))
    return None


def used_cpu_s(root: Path = CGROUP) -> float | None:
    """Returns the CPU seconds that the container has used so far, None without a cgroup."""
    microseconds = _field(root / "cpu.stat", "usage_usec")
    if microseconds:
        return microseconds / 1e6
    nanoseconds = _number(root / "cpuacct" / "cpuacct.usage")
    return None if nanoseconds is None else nanoseconds / 1e9


def _cpu_quota(root: Path) -> float | None:
    text = _text(root / "cpu.max").split()
    if len(text) == 2 and text[0].isdigit():
        return int(text[0]) / int(text[1])
    quota, period = (_number(root / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota and quota > 0 and period else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _field(path: Path, name: str) -> int:
    """Returns the number after `name` in a file of `name number` lines, 0 without one."""
    fields = dict(line.split(None, 1) for line in _text(path).splitlines() if " " in line)
    return int(fields.get(name, 0))
