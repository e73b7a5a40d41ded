"""Rules about the time of a training step: outliers, waiting for data, data loader workers, a summary."""

from __future__ import annotations

from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, Suggestion, counted, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.series import Array, StepTimes

WARM_UP = 3
"""First steps of a training, which are skipped: they load kernels, start workers and compile."""


@rule("StepOutlier", aws_name="StepOutlier", group="profiler", priority=68, caused_by=("DataWait",))
def step_outlier(
    step_times: StepTimes,
    settings: Settings | None = None,
    *,
    stddev: float = 3.0,
    n_outliers: int = 10,
    min_steps: int = 100,
    min_ratio: float = 3.0,
    min_extra_ms: float = 20.0,
) -> Outcome:
    """Detects single steps that take far longer than the others.

    The first `WARM_UP` steps and the first of each epoch are skipped: they start workers and compile.

    Args:
        step_times: Training steps.
        settings: The run's settings; `cores` and `num_workers`, for the suggestion.
        stddev: Standard deviations above the mean from which on a step is an outlier. AWS: 3; its documentation: 5.
        n_outliers: Outliers above which it fires. AWS: 10.
        min_steps: More steps than this are needed. AWS: 100.
        min_ratio: An outlier takes at least this many times the median: if steps are even, three milliseconds would
            be an outlier otherwise.
        min_extra_ms: An outlier takes at least this many milliseconds more than the median: on a busy machine a
            process waits ten for its turn, and no number of workers would help.

    Statuses:
        issue: There are too many outliers.
        insufficient_data: `min_steps` timed steps or fewer.

    Source: AWS; `min_ratio` and `min_extra_ms` are additions.
    """
    total = step_times.total
    first_of_epoch = np.r_[True, np.diff(step_times.epochs) != 0]
    keep = (np.arange(len(total)) >= WARM_UP) & ~first_of_epoch
    total, steps = total[keep], step_times.steps[keep]
    if len(total) <= min_steps:
        return _too_few(len(total), min_steps + 1)
    median = float(np.median(total))
    spread = 1.4826 * float(np.median(np.abs(total - median)))
    limit = max(float(total.mean() + stddev * total.std()), min_ratio * median, median + min_extra_ms / 1000)
    text = f"seconds (median {median:.3g}, median deviation {spread:.2g})"
    evidence = [Evidence(text, "step", int(steps[i]), float(total[i]), limit) for i in np.flatnonzero(total > limit)]
    if len(evidence) > n_outliers:
        summary = f"{len(evidence)} of {len(total)} steps take more than {limit:.2g} s"
        return issue(summary, suggestions.num_workers(settings), evidence, datapoints=len(total))
    summary = f"{counted(len(evidence), 'outlier')} among {len(total)} steps"
    return ok(summary, datapoints=len(total), evidence=evidence)


def _too_few(count: int, needed: int) -> Outcome:
    return insufficient(f"{counted(count, 'timed step')}, {needed} needed", datapoints=count)


@rule("DataWait", group="profiler", priority=58)
def data_wait(
    step_times: StepTimes,
    settings: Settings | None = None,
    *,
    threshold: float = 0.2,
    min_steps: int = 20,
    min_wait_ms: float = 5.0,
) -> Outcome:
    """Detects a training that waits for images.

    Args:
        step_times: Training steps; the first `WARM_UP` are skipped.
        settings: The run's settings; `cores` and `num_workers`, for the suggestion.
        threshold: Share of the step time spent waiting above which it fires, 0 to 1.
        min_steps: Steps needed.
        min_wait_ms: Milliseconds per step that are negligible.

    Statuses:
        issue: The share is above the threshold, and the wait is not negligible.
        insufficient_data: Fewer than `min_steps` timed steps.

    Source: an addition to AWS's rules, which show the share and judge the number of workers only.
    """
    count = max(0, len(step_times.steps) - WARM_UP)
    if count < min_steps:
        return _too_few(count, min_steps)
    share, milliseconds = waiting(step_times)
    if share > threshold and milliseconds > min_wait_ms:
        text = f"share of the step time ({milliseconds:.0f} ms per step)"
        evidence = [Evidence(text, "data", None, share, threshold)]
        summary = f"{share:.0%} of the step time is spent waiting for images"
        return issue(summary, suggestions.num_workers(settings), evidence, datapoints=count)
    return ok(f"{share:.1%} of the step time is spent waiting for images", datapoints=count)


def waiting(step_times: StepTimes) -> tuple[float, float]:
    """Returns (share of the step time spent waiting for data, milliseconds per step), without the warm-up."""
    wait, total = step_times.parts["data"][WARM_UP:], step_times.total[WARM_UP:]
    return float(wait.sum() / max(total.sum(), 1e-9)), 1000 * float(wait.mean())


@rule("Dataloader", aws_name="Dataloader", group="profiler", priority=66, caused_by=("DataWait",))
def dataloader(
    settings: Settings,
    step_times: StepTimes | None = None,
    *,
    min_threshold: float = 70.0,
    max_threshold: float = 200.0,
    min_wait_share: float = 0.2,
    min_wait_ms: float = 5.0,
    min_steps: int = 20,
) -> Outcome:
    """Detects too few or too many data loader workers for the cores of the job.

    Args:
        settings: The run's settings; `num_workers`, `cores`.
        step_times: Training steps.
        min_threshold: Workers in percent of the cores below which there are too few. AWS: 70.
        max_threshold: Percentage above which there are too many. AWS: 200.
        min_wait_share: Share of the step time spent waiting below which few workers are enough.
        min_wait_ms: Milliseconds of waiting per step below which few workers are enough.
        min_steps: Timed steps over which the wait is measured.

    Statuses:
        issue: There are too few workers and, if that was measured, the training waits for data; or too many.
        not_applicable: The number of workers or cores is unknown.
        insufficient_data: Few workers, but fewer than `min_steps` timed steps.

    Source: AWS, undocumented; the test for a wait is an addition.
    """
    workers, cores = settings.get("num_workers"), settings.get("cores")
    if not isinstance(workers, int) or not isinstance(cores, (int, float)) or not cores:
        return not_applicable("the number of workers or cores is not known")
    percent = 100 * workers / cores
    share, milliseconds = None, float("inf")
    if step_times is not None:
        count = max(0, len(step_times.steps) - WARM_UP)
        if count >= min_steps:
            share, milliseconds = waiting(step_times)
        elif percent < min_threshold:
            return _too_few(count, min_steps)
    numbers = f"{counted(workers, 'worker')} for {counted(int(cores), 'core')}"
    is_low = percent < min_threshold and (share is None or share > min_wait_share) and milliseconds > min_wait_ms
    if is_low or percent > max_threshold:
        limit = min_threshold if is_low else max_threshold
        evidence = [Evidence(f"{numbers}, in percent", "data.num_workers", None, percent, limit)]
        suggestion = Suggestion("use one worker per core", "data.num_workers", max(1, int(cores)))
        summary = f"too {'few' if is_low else 'many'} data loader workers"
        return issue(summary, suggestion, evidence, datapoints=1)
    waited = "" if share is None else f"; {share:.1%} of the step time is spent waiting"
    return ok(f"{numbers}{waited}", datapoints=1)


def step_statistics(total: Array) -> dict[str, float]:
    """Returns mean, p50, p95, p99 and max of (S,) step times, in seconds; {} for none."""
    if not len(total):
        return {}
    p50, p95, p99 = np.percentile(total, (50, 95, 99))
    return {"mean": float(total.mean()), "p50": p50, "p95": p95, "p99": p99, "max": float(total.max())}


@rule("OverallFrameworkMetrics", aws_name="OverallFrameworkMetrics", group="profiler", priority=91)
def overall_framework_metrics(step_times: StepTimes, settings: Settings | None = None) -> Outcome:
    """Summarizes where the time went; never an issue.

    Args:
        step_times: Training steps and phases of the run.
        settings: The run's settings; `batch_size`, for images per second.

    Statuses:
        ok: `details` holds the shares of phases and of the parts of a step, which add up to 100 %.
        insufficient_data: No step was timed.

    Source: AWS.
    """
    total = step_times.total
    if not len(total):
        return insufficient("no step was timed")
    statistics = step_statistics(total[WARM_UP:] if len(total) > WARM_UP else total)
    whole = max(float(total.sum()), 1e-9)
    parts = {name: 100 * float(values.sum()) / whole for name, values in step_times.parts.items()}
    all_phases = max(sum(step_times.phases_s.values()), 1e-9)
    phases = {name: 100 * seconds / all_phases for name, seconds in step_times.phases_s.items()}
    details: dict[str, Any] = {"parts_percent": parts, "phases_percent": phases, "step_s": statistics}
    batch = (settings or {}).get("batch_size")
    if isinstance(batch, int):
        details["images_per_second"] = batch / statistics["mean"]
    shares = ", ".join(f"{name} {value:.0f} %" for name, value in parts.items() if value >= 1)
    return ok(
        f"a step takes {1000 * statistics['p50']:.0f} ms (median): {shares}", datapoints=len(total), details=details
    )
