"""Rules about GPUs: room for a larger batch, growing memory, uneven load, low utilization."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, Suggestion, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.rules.system import scaled, too_few
from dogbreed.debugger.series import Array, SystemSeries


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
    """Detects a batch that could be larger: CPU, GPU and GPU memory all have room.

    Args:
        gpus: Snapshots of a machine with GPUs.
        settings: The run's settings; `batch_size`, for the suggestion.
        cpu_threshold_p95: Percentage below which the p95 of the CPU, averaged over cores, has room. AWS: 70.
        gpu_threshold_p95: The same for a GPU's utilization. AWS: 70.
        gpu_memory_threshold_p95: The same for a GPU's memory. AWS: 70.
        patience: Snapshots before anything is evaluated. AWS: 1000; its documentation: 100.
        window: Last snapshots, which are evaluated. AWS: 500.

    Statuses:
        issue: All three have room.
        not_applicable: There is no GPU.
        insufficient_data: Fewer than 20 snapshots.

    Source: AWS.
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
            text = f"p95 of GPU utilization; memory {filled:.0f} %, CPU {cpu:.0f} %"
            evidence.append(Evidence(text, f"gpu{number}", None, load, gpu_threshold_p95))
    if evidence:
        summary = f"CPU ({cpu:.0f} %), GPU and GPU memory have room for a larger batch"
        suggestion = suggestions.batch_size(settings, 2)
        return issue(summary, suggestion, evidence, datapoints=points, parameters=used)
    return ok("this batch size makes good use of the machine", datapoints=points, parameters=used)


@rule("GPUMemoryIncrease", aws_name="GPUMemoryIncrease", group="profiler", priority=35)
def gpu_memory_increase(
    gpus: SystemSeries, *, increase: float = 5.0, patience: int = 1000, window: int = 10
) -> Outcome:
    """Detects GPU memory that grows while training, as with tensors that are never freed.

    Compares the mean of `window` snapshots with that of the `window` snapshots before.

    Args:
        gpus: Snapshots of a machine with GPUs.
        increase: Growth in percentage points above which it fires. AWS: 5; its documentation: 10.
        patience: First snapshots, which are skipped. AWS: 1000; its documentation: 100.
        window: Snapshots per mean. AWS: 10; its documentation: 500.

    Statuses:
        issue: A GPU's memory grew by more than `increase`.
        not_applicable: There is no GPU, or its memory was not measured.
        insufficient_data: Fewer than 20 snapshots.

    Source: AWS, whose windows overlap so much that it cannot fire with the documented defaults.
    """
    if gpus.gpu_memory is None:
        return not_applicable("the GPU's memory was not measured")
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
            text = "growth of memory between neighboring windows, percentage points"
            evidence.append(Evidence(text, f"gpu{number}", None, float(np.nanmax(growth)), increase))
    if evidence:
        summary = f"the memory of {evidence[0].tensor} grew by {evidence[0].value:.0f} percentage points"
        suggestion = Suggestion("look for tensors kept from step to step, such as losses in a list; use loss.item()")
        return issue(summary, suggestion, evidence, datapoints=points, parameters=used)
    return ok("GPU memory does not grow", datapoints=points, parameters=used)


def jensen_shannon(first: Array, second: Array) -> float:
    """Returns the Jensen-Shannon distance (base 2, 0 to 1) of two histograms, which need not be normalized."""
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2

    def divergence(a: Array) -> float:
        occupied = a > 0
        return float(np.sum(a[occupied] * np.log2(a[occupied] / middle[occupied])))

    return float(np.sqrt(max(0.0, (divergence(p) + divergence(q)) / 2)))


@rule("LoadBalancing", aws_name="LoadBalancing", group="profiler", priority=64)
def load_balancing(gpus: SystemSeries, *, threshold: float = 0.5, patience: int = 1000) -> Outcome:
    """Detects GPUs with uneven load.

    Args:
        gpus: Snapshots of a machine with GPUs.
        threshold: Jensen-Shannon distance of two GPUs' utilization histograms above which they are uneven. AWS: 0.5.
        patience: Snapshots before anything is evaluated. AWS: 1000; its documentation: 10.

    Statuses:
        issue: Two GPUs are uneven.
        not_applicable: There are fewer than 2 GPUs.
        insufficient_data: Fewer than 20 snapshots.

    Source: AWS, whose histograms are not normalized and drop a fully busy GPU.
    """
    assert gpus.gpu is not None
    if gpus.gpu.shape[1] < 2:
        return not_applicable("there is a single GPU")
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
                evidence.append(Evidence("distance of utilization", f"gpu{a}, gpu{b}", None, distance, threshold))
    if evidence:
        summary = f"{evidence[0].tensor} are loaded unevenly"
        suggestion = Suggestion("check that the training uses all GPUs and that no other job shares them")
        return issue(summary, suggestion, evidence, datapoints=points, parameters=used)
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
    """Detects a GPU that is unused, under-used, or busy only in bursts.

    Args:
        gpus: Snapshots of a machine with GPUs.
        settings: The run's settings; `cores` and `num_workers`, for the suggestion.
        threshold_p95: Percentage below which the 95th percentile of utilization is under-use. AWS: 70.
        threshold_p5: Percentage below which the 5th percentile of a GPU that is used means bursts. AWS: 10.
        patience: Snapshots before anything is evaluated. AWS: 1000.
        window: Last snapshots, which are evaluated. AWS: 500.

    Statuses:
        issue: A GPU is not well used.
        not_applicable: There is no GPU.
        insufficient_data: Fewer than 20 snapshots.

    Source: AWS.
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
            evidence.append(Evidence("largest utilization: not used at all", f"gpu{number}", None, 0.0, threshold_p95))
        elif p95 < threshold_p95:
            evidence.append(Evidence("p95 of utilization: under-used", f"gpu{number}", None, p95, threshold_p95))
        elif p5 < threshold_p5:
            evidence.append(Evidence("p5 of utilization: used in bursts", f"gpu{number}", None, p5, threshold_p5))
    if evidence:
        first = evidence[0]
        summary = f"{first.tensor} is {first.text.rpartition(': ')[2]} ({first.value:.0f} %)"
        unused = Suggestion("train on all GPUs, or on a machine with fewer")
        suggestion = suggestions.num_workers(settings) if first.value else unused
        return issue(summary, suggestion, evidence, datapoints=points, parameters=used)
    return ok("the GPUs are busy", datapoints=points, parameters=used)
