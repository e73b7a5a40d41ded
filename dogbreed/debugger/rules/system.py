"""Rules about the machine: CPU, I/O, GPU. One point is one snapshot, 500 ms by default.

AWS's patience of 1000 points means that nothing is evaluated in the first 8 minutes 20 seconds. Here patience and
window shrink with a short run, to a quarter and to a half of the points there are, and the finding shows the values
it used; under 20 points a rule says `insufficient_data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.series import Flags, SystemSeries

Settings = Mapping[str, Any]

MIN_POINTS = 20


def scaled(points: int, patience: int, window: int | None = None) -> dict[str, int] | None:
    """Returns patience (and window) as they fit `points` snapshots, None where those are too few to judge."""
    if points < MIN_POINTS:
        return None
    used = {"patience": min(patience, points // 4)}
    if window is not None:
        used["window"] = min(window, points // 2)
    return used


def too_few(points: int) -> Outcome:
    """Returns what is said of too few snapshots."""
    return insufficient(f"{points} snapshots of the machine; it takes {MIN_POINTS}", datapoints=points)


def _share(flags: Flags, patience: int) -> float:
    return 100 * float(flags[patience:].mean())


@rule("CPUBottleneck", aws_name="CPUBottleneck", group="profiler", priority=61)
def cpu_bottleneck(
    gpus: SystemSeries,
    settings: Settings | None = None,
    *,
    threshold: float = 50.0,
    gpu_threshold: float = 10.0,
    cpu_threshold: float = 90.0,
    patience: int = 1000,
) -> Outcome:
    """The GPU waits for a CPU that is busy.

    Args:
        gpus: What the machine did.
        settings: The run's settings, for the suggestion.
        threshold: Percent of snapshots with a bottleneck above which it fires (50).
        gpu_threshold: A snapshot counts where some GPU is below this ... (10)
        cpu_threshold: ... and some core is above this (90).
        patience: First points that are left out (DOC 100, CFG 1000).

    Source: DOC, CFG, SRC 3.
    """
    assert gpus.gpu is not None
    points = len(gpus.times_s)
    used = scaled(points, patience)
    if used is None:
        return too_few(points)
    waiting: Flags = np.logical_and((gpus.gpu < gpu_threshold).any(axis=1), (gpus.cpu > cpu_threshold).any(axis=1))
    share = _share(waiting, used["patience"])
    if share > threshold:
        seen = Evidence("% of snapshots with a busy core and an idle GPU", "", None, share, threshold)
        summary = f"in {share:.0f} % of the time the GPU waits for the CPU"
        return issue(summary, suggestions.num_workers(settings), [seen], datapoints=points, parameters=used)
    return ok(f"the GPU waits for the CPU in {share:.0f} % of the time", datapoints=points, parameters=used)


@rule("IOBottleneck", aws_name="IOBottleneck", group="profiler", priority=60)
def io_bottleneck(
    system: SystemSeries,
    settings: Settings | None = None,
    *,
    threshold: float = 50.0,
    gpu_threshold: float = 10.0,
    io_threshold: float = 50.0,
    patience: int = 1000,
) -> Outcome:
    """The training waits for the disk.

    Without a GPU the condition on GPUs is left out (OURS).

    Args:
        system: What the machine did.
        settings: The run's settings, for the suggestion.
        threshold: Percent of snapshots with a bottleneck above which it fires (50).
        gpu_threshold: A snapshot counts where some GPU is below this ... (DOC 70, CFG 10)
        io_threshold: ... and some core waits for I/O in more than this percent (50).
        patience: First points that are left out (1000).

    Source: DOC, CFG, SRC 3.
    """
    if system.io_wait is None:
        return not_applicable("this system does not tell how long it waits for I/O (only Linux does)")
    points = len(system.times_s)
    used = scaled(points, patience)
    if used is None:
        return too_few(points)
    waiting: Flags = np.any(system.io_wait > io_threshold, axis=1)
    if system.gpu is not None:
        waiting = np.logical_and(waiting, (system.gpu < gpu_threshold).any(axis=1))
    share = _share(waiting, used["patience"])
    if share > threshold:
        seen = Evidence("% of snapshots that wait for I/O", "", None, share, threshold)
        summary = f"in {share:.0f} % of the time the training waits for the disk"
        return issue(summary, suggestions.num_workers(settings), [seen], datapoints=points, parameters=used)
    return ok(f"waits for the disk in {share:.0f} % of the time", datapoints=points, parameters=used)


def usage_table(system: SystemSeries) -> dict[str, dict[str, float]]:
    """Returns metric to max, p99, p95, p50 and min."""
    rows = {"CPU %": system.cpu, "I/O wait %": system.io_wait, "Memory %": system.memory}
    rows |= {"GPU %": system.gpu, "GPU memory %": system.gpu_memory}
    for kind, traffic in (("Network", system.network), ("Disk", system.disk)):
        rows |= {f"{kind} {name.removesuffix('BytesPerSecond').lower()}, MB/s": v / 1e6 for name, v in traffic.items()}
    table = {}
    for name, values in rows.items():
        if values is not None and np.isfinite(values).any():
            flat = values[np.isfinite(values)]
            low, p50, p95, p99, high = np.percentile(flat, (0, 50, 95, 99, 100))
            table[name] = {"max": high, "p99": p99, "p95": p95, "p50": p50, "min": low}
    return table


@rule("OverallSystemUsage", aws_name="OverallSystemUsage", group="profiler", priority=90)
def overall_system_usage(system: SystemSeries) -> Outcome:
    """Shows how much of the machine was used; it never fires.

    Args:
        system: What the machine did.

    Source: DOC, SRC 3: max, p99, p95, p50 and min of each metric.
    """
    table = usage_table(system)
    if not table:
        return insufficient("no snapshot of the machine")
    busy = table.get("CPU %", {}).get("p50", 0.0)
    return ok(f"CPU {busy:.0f} % busy (median)", datapoints=len(system.times_s), details={"table": table})
