"""Rules about the machine: CPU and I/O. One point is one snapshot, by default every 500 ms.

With AWS's patience of 1000 points nothing is evaluated in the first 8 minutes 20 seconds. Here patience and window
shrink with a short run, to a quarter and a half of its points; the finding shows the values used. Under
`MIN_POINTS` points a rule reports `insufficient_data`.
"""

from __future__ import annotations

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, counted, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.series import Flags, SystemSeries

MIN_POINTS = 20


def scaled(points: int, patience: int, window: int | None = None) -> dict[str, int] | None:
    """Returns `patience` and `window` scaled to the number of snapshots, None if there are too few."""
    if points < MIN_POINTS:
        return None
    used = {"patience": min(patience, points // 4)}
    if window is not None:
        used["window"] = min(window, points // 2)
    return used


def too_few(points: int) -> Outcome:
    """Returns the outcome for fewer than `MIN_POINTS` snapshots."""
    return insufficient(f"{counted(points, 'snapshot')} of the machine, {MIN_POINTS} needed", datapoints=points)


def _bottleneck(waiting: Flags, text: str, patience: int, threshold: float, settings: Settings | None) -> Outcome:
    """Returns an issue if more than `threshold` % of the (T,) snapshots after `patience` are `waiting`."""
    points = len(waiting)
    used = scaled(points, patience)
    if used is None:
        return too_few(points)
    percent = 100 * float(waiting[used["patience"] :].mean())
    summary = f"{text} {percent:.0f} % of the time"
    if percent <= threshold:
        return ok(summary, datapoints=points, parameters=used)
    evidence = [Evidence("% of the snapshots", "", None, percent, threshold)]
    return issue(summary, suggestions.num_workers(settings), evidence, datapoints=points, parameters=used)


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
    """Detects a GPU that waits for a busy CPU.

    Args:
        gpus: Snapshots of a machine with GPUs.
        settings: The run's settings; `cores` and `num_workers`, for the suggestion.
        threshold: Percent of snapshots with a bottleneck above which it fires. AWS: 50.
        gpu_threshold: A snapshot counts if a GPU is below this percentage. AWS: 10.
        cpu_threshold: ... and a core is above this percentage. AWS: 90.
        patience: First snapshots, which are skipped. AWS: 1000; its documentation: 100.

    Statuses:
        issue: Too many snapshots show a bottleneck.
        not_applicable: There is no GPU.
        insufficient_data: Fewer than 20 snapshots.

    Source: AWS.
    """
    assert gpus.gpu is not None
    is_idle, is_busy = (gpus.gpu < gpu_threshold).any(axis=1), (gpus.cpu > cpu_threshold).any(axis=1)
    waiting: Flags = np.logical_and(is_idle, is_busy)
    return _bottleneck(waiting, "the GPU waits for the CPU", patience, threshold, settings)


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
    """Detects a training that waits for the disk.

    Args:
        system: Snapshots of the machine.
        settings: The run's settings; `cores` and `num_workers`, for the suggestion.
        threshold: Percent of snapshots with a bottleneck above which it fires. AWS: 50.
        gpu_threshold: A snapshot counts if a GPU is below this percentage, or there is none. AWS: 10; its
            documentation: 70.
        io_threshold: ... and a core waits for I/O more than this percentage. AWS: 50.
        patience: First snapshots, which are skipped. AWS: 1000.

    Statuses:
        issue: Too many snapshots show a bottleneck.
        not_applicable: The operating system does not measure it (only Linux does).
        insufficient_data: Fewer than 20 snapshots.

    Source: AWS.
    """
    if system.io_wait is None:
        return not_applicable("this operating system does not measure how long it waits for I/O (only Linux does)")
    waiting: Flags = np.any(system.io_wait > io_threshold, axis=1)
    if system.gpu is not None:
        waiting = np.logical_and(waiting, (system.gpu < gpu_threshold).any(axis=1))
    return _bottleneck(waiting, "the training waits for the disk", patience, threshold, settings)


def usage_table(system: SystemSeries) -> dict[str, dict[str, float]]:
    """Returns metric to its max, p99, p95, p50 and min."""
    rows = {"CPU %": system.cpu, "I/O wait %": system.io_wait, "Memory %": system.memory}
    rows |= {"GPU %": system.gpu, "GPU memory %": system.gpu_memory}
    for kind, traffic in (("Network", system.network), ("Disk", system.disk)):
        rows |= {f"{kind} {name.removesuffix('BytesPerSecond').lower()}, MB/s": v / 1e6 for name, v in traffic.items()}
    table = {}
    for name, values in rows.items():
        if values is not None and np.isfinite(values).any():
            low, p50, p95, p99, high = np.percentile(values[np.isfinite(values)], (0, 50, 95, 99, 100))
            table[name] = {"max": high, "p99": p99, "p95": p95, "p50": p50, "min": low}
    return table


@rule("OverallSystemUsage", aws_name="OverallSystemUsage", group="profiler", priority=90)
def overall_system_usage(system: SystemSeries) -> Outcome:
    """Summarizes the use of the machine; never an issue.

    Args:
        system: Snapshots of the machine.

    Statuses:
        ok: `details` holds max, p99, p95, p50 and min of each metric.
        insufficient_data: There is no snapshot.

    Source: AWS.
    """
    table = usage_table(system)
    if not table:
        return insufficient("no snapshot of the machine")
    busy = table.get("CPU %", {}).get("p50", 0.0)
    return ok(f"the CPU is {busy:.0f} % busy (median)", datapoints=len(system.times_s), details={"table": table})
