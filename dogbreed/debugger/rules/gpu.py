"""Rules about GPUs: room for a larger batch, growing memory, uneven load, little use."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.rules.system import scaled, too_few
from dogbreed.debugger.series import Array, SystemSeries

Settings = Mapping[str, Any]


def _p95(values: Array) -> float:
    return float(np.nanpercentile(values, 95))


@rule("BatchSize", aws_name="BatchSize", group="profiler", priority=62, caused_by=("DataWait",))
def batch_size(
    gpus: SystemSeries,
    settings: Settings | None = None,
    *,
    cpu_threshold_p95: float = 70.0,
    gpu_threshold_p95: float = 70.0,
    gpu_memory_threshold_p95: float = 70.0,
    patience: int = 1000,
    window: int = 500,
) -> Outcome:
    """CPU, GPU and GPU memory all have room: the batch could be larger.

    Args:
        gpus: What the machine did.
        settings: The run's settings, for the suggestion.
        cpu_threshold_p95: Percent below which the 95th percentile of the CPU (mean over cores) has room (70).
        gpu_threshold_p95: The same for a GPU's utilisation (70).
        gpu_memory_threshold_p95: The same for a GPU's memory (70).
        patience: Points before anything is evaluated (DOC 100, CFG 1000).
        window: Last points that are looked at (500).

    Source: DOC, CFG, SRC 3.
    """
    assert gpus.gpu is not None
    points = len(gpus.times_s)
    used = scaled(points, patience, window)
    if used is None:
        return too_few(points)
    last = slice(-used["window"], None)
    cpu = _p95(np.nanmean(gpus.cpu[last], axis=1))
    memory = gpus.gpu_memory if gpus.gpu_memory is not None else np.full_like(gpus.gpu, np.nan)
    evidence = []
    for number in range(gpus.gpu.shape[1]):
        load, filled = _p95(gpus.gpu[last, number]), _p95(memory[last, number])
        if cpu < cpu_threshold_p95 and load < gpu_threshold_p95 and filled < gpu_memory_threshold_p95:
            text = f"p95 of GPU use; memory {filled:.0f} %, CPU {cpu:.0f} %"
            evidence.append(Evidence(text, f"gpu{number}", None, load, gpu_threshold_p95))
    if evidence:
        summary = f"CPU ({cpu:.0f} %), GPU and GPU memory have room for a larger batch"
        override = suggestions.batch_size(settings, 2)
        return issue(summary, override, evidence, datapoints=points, parameters=used)
    return ok("the machine is well used by this batch size", datapoints=points, parameters=used)


@rule("GPUMemoryIncrease", aws_name="GPUMemoryIncrease", group="profiler", priority=35)
def gpu_memory_increase(
    gpus: SystemSeries,
    settings: Settings | None = None,
    *,
    increase: float = 5.0,
    patience: int = 1000,
    window: int = 10,
) -> Outcome:
    """GPU memory grows while training: something is kept that should go.

    Compared are neighbouring windows: mean of `window` points less the mean of the `window` points before (OURS; the
    old implementation shifts by one point and can never fire with the documented defaults).

    Args:
        gpus: What the machine did.
        settings: The run's settings, for the suggestion.
        increase: Points of percent by which memory may grow (DOC 10, CFG 5).
        patience: First points that are left out (DOC 100, CFG 1000).
        window: Points of a mean (DOC 500, CFG 10).

    Source: DOC, CFG, SRC 3.
    """
    if gpus.gpu_memory is None:
        return not_applicable("the GPU does not tell its memory")
    points = len(gpus.times_s)
    used = scaled(points, patience, window)
    if used is None:
        return too_few(points)
    evidence = []
    width = max(1, used["window"])
    for number in range(gpus.gpu_memory.shape[1]):
        values = gpus.gpu_memory[max(0, used["patience"] - width) :, number]
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        growth = mean[width:] - mean[:-width] if len(mean) > width else np.empty(0)
        if len(growth) and np.nanmax(growth) > increase:
            seen = "% points of memory between neighbouring windows"
            evidence.append(Evidence(seen, f"gpu{number}", None, float(np.nanmax(growth)), increase))
    if evidence:
        summary = f"memory of {evidence[0].tensor} grew by {evidence[0].value:.0f} points of percent"
        override = suggestions.batch_size(settings, 0.5)
        return issue(summary, override, evidence, datapoints=points, parameters=used)
    return ok("GPU memory does not grow", datapoints=points, parameters=used)


def jensen_shannon(first: Array, second: Array) -> float:
    """Returns the Jensen-Shannon distance (base 2, 0..1) of two histograms of any counts."""
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2

    def divergence(a: Array) -> float:
        held = a > 0
        return float(np.sum(a[held] * np.log2(a[held] / middle[held])))

    return float(np.sqrt(max(0.0, (divergence(p) + divergence(q)) / 2)))


@rule("LoadBalancing", aws_name="LoadBalancing", group="profiler", priority=64)
def load_balancing(gpus: SystemSeries, *, threshold: float = 0.5, patience: int = 1000) -> Outcome:
    """One GPU works while another waits.

    Args:
        gpus: What the machine did.
        threshold: Jensen-Shannon distance of two GPUs' utilisation histograms above which they are uneven (0.5).
        patience: Points before anything is evaluated (DOC 10, CFG 1000).

    Source: DOC, CFG, SRC 3; histograms over 0..100 % inclusive and normalised (the old ones lost a fully busy GPU).
    """
    assert gpus.gpu is not None
    if gpus.gpu.shape[1] < 2:
        return not_applicable("one GPU has nobody to share with")
    points = len(gpus.times_s)
    used = scaled(points, patience)
    if used is None:
        return too_few(points)
    bins = np.linspace(0, 100, 51)
    histograms = [np.histogram(column[np.isfinite(column)], bins)[0].astype(np.float64) for column in gpus.gpu.T]
    evidence = []
    for a, b in combinations(range(len(histograms)), 2):
        if histograms[a].sum() and histograms[b].sum():
            distance = jensen_shannon(histograms[a], histograms[b])
            if distance > threshold:
                evidence.append(Evidence("distance of utilisation", f"gpu{a}, gpu{b}", None, distance, threshold))
    if evidence:
        summary = f"{evidence[0].tensor} are loaded unevenly"
        return issue(summary, "+trainer.strategy=ddp", evidence, datapoints=points, parameters=used)
    return ok("the GPUs share the load", datapoints=points, parameters=used)


@rule(
    "LowGPUUtilization",
    aws_name="LowGPUUtilization",
    group="profiler",
    priority=63,
    caused_by=("DataWait", "CPUBottleneck", "IOBottleneck"),
)
def low_gpu_utilization(
    gpus: SystemSeries,
    settings: Settings | None = None,
    *,
    threshold_p95: float = 70.0,
    threshold_p5: float = 10.0,
    patience: int = 1000,
    window: int = 500,
) -> Outcome:
    """A GPU is hardly used, not used at all, or only in bursts.

    Args:
        gpus: What the machine did.
        settings: The run's settings, for the suggestion.
        threshold_p95: 95th percentile of utilisation below which a GPU is under-used (70).
        threshold_p5: 5th percentile below which a GPU that is used works in bursts (10).
        patience: Points before anything is evaluated (1000).
        window: Last points that are looked at (500).

    Source: DOC, CFG, SRC 3.
    """
    assert gpus.gpu is not None
    points = len(gpus.times_s)
    used = scaled(points, patience, window)
    if used is None:
        return too_few(points)
    evidence = []
    for number, column in enumerate(gpus.gpu[-used["window"] :].T):
        p95, p5 = _p95(column), float(np.nanpercentile(column, 5))
        if np.nanmax(column) == 0:
            evidence.append(Evidence("not used at all", f"gpu{number}", None, 0.0, threshold_p95))
        elif p95 < threshold_p95:
            evidence.append(Evidence("p95 of utilisation: under-used", f"gpu{number}", None, p95, threshold_p95))
        elif p5 < threshold_p5:
            evidence.append(Evidence("p5 of utilisation: works in bursts", f"gpu{number}", None, p5, threshold_p5))
    if evidence:
        first = evidence[0]
        summary = f"{first.tensor} is {first.text.rpartition(': ')[2]} ({first.value:.0f} %)"
        return issue(summary, suggestions.num_workers(settings), evidence, datapoints=points, parameters=used)
    return ok("the GPUs are busy", datapoints=points, parameters=used)
