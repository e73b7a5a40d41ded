"""Rules about the time of a training step: outliers, waiting for data, loaders, overall shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.series import Array, StepTimes

Settings = Mapping[str, Any]

WARM_UP = 3
"""First steps of a training that are left out: they load kernels, start workers, compile."""


@rule("StepOutlier", aws_name="StepOutlier", group="profiler", priority=68, caused_by=("DataWait",))
def step_outlier(
    step_times: StepTimes,
    settings: Settings | None = None,
    *,
    stddev: float = 3.0,
    mode: str | None = None,
    n_outliers: int = 10,
    min_steps: int = 100,
    min_ratio: float = 3.0,
    min_extra_ms: float = 20.0,
) -> Outcome:
    """Single steps take far longer than the others.

    Args:
        step_times: Training steps; the first `WARM_UP` and the first of each epoch are left out (OURS: they start
            workers and compile).
        settings: The run's settings, for the suggestion.
        stddev: Standard deviations above the mean from which on a step is an outlier (DOC 5, CFG 3).
        mode: Kept for AWS's parameter list: TRAIN or None; only training steps are timed.
        n_outliers: Outliers above which it fires (10).
        min_steps: Steps that it takes (SRC: more than 100).
        min_ratio: An outlier takes this many times the median at least (OURS: with a steady step a deviation of
            three milliseconds would count).
        min_extra_ms: And this many milliseconds more than the median (OURS: steps of a head on kept features take one,
            and on a machine with other work a process waits ten for its turn; no number of workers would help).

    Source: DOC, CFG, SRC 3; upper side only, as SRC.
    """
    if mode is not None and str(mode).upper() != "TRAIN":
        return insufficient(f"training steps are timed, not those of mode={mode}")
    total = step_times.total
    first_of_epoch = np.r_[True, np.diff(step_times.epochs) != 0]
    keep = (np.arange(len(total)) >= WARM_UP) & ~first_of_epoch
    total, steps = total[keep], step_times.steps[keep]
    if len(total) <= min_steps:
        return insufficient(f"{len(total)} timed steps; it takes more than {min_steps}", datapoints=len(total))
    median = float(np.median(total))
    spread = 1.4826 * float(np.median(np.abs(total - median)))
    limit = max(float(total.mean() + stddev * total.std()), min_ratio * median, median + min_extra_ms / 1000)
    far = total > limit
    evidence = [
        Evidence(
            f"seconds (median {median:.3g}, median deviation {spread:.2g})", "step", int(step), float(value), limit
        )
        for step, value in zip(steps[far], total[far], strict=True)
    ]
    if len(evidence) > n_outliers:
        summary = f"{len(evidence)} of {len(total)} steps take more than {limit:.2g} s"
        return issue(summary, suggestions.num_workers(settings), evidence, datapoints=len(total))
    text = f"{len(evidence)} outliers among {len(total)} steps"
    return ok(text, datapoints=len(total), evidence=evidence)


@rule("DataWait", group="profiler", priority=58)
def data_wait(
    step_times: StepTimes,
    settings: Settings | None = None,
    *,
    threshold: float = 0.2,
    min_steps: int = 20,
    min_wait_ms: float = 5.0,
) -> Outcome:
    """The training waits for images.

    Args:
        step_times: Training steps; the first `WARM_UP` are left out.
        settings: The run's settings, for the suggestion.
        threshold: Share of the step time spent waiting above which it fires, 0..1.
        min_steps: Steps that it takes.
        min_wait_ms: Wait below which a share is not worth a word, milliseconds a step.

    Source: OURS; AWS shows the share and judges the number of workers only.
    """
    count = len(step_times.steps) - WARM_UP
    if count < min_steps:
        return insufficient(f"{max(count, 0)} timed steps; it takes {min_steps}", datapoints=max(count, 0))
    share, milliseconds = waiting(step_times)
    if share > threshold and milliseconds > min_wait_ms:
        seen = Evidence(f"share of the step time ({milliseconds:.0f} ms a step)", "data", None, share, threshold)
        summary = f"{share:.0%} of the step time is spent waiting for images"
        return issue(summary, suggestions.num_workers(settings), [seen], datapoints=count)
    return ok(f"{share:.1%} of the step time is spent waiting for images", datapoints=count)


def waiting(step_times: StepTimes) -> tuple[float, float]:
    """Returns what steps after the warm-up wait for data: (share of their time, milliseconds a step)."""
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
    """There are too few or too many data loader workers for the cores of the job.

    Too few is an issue only where the training also waits for data, if that was measured (OURS).

    Args:
        settings: The run's settings; `num_workers`, `cores`.
        step_times: Training steps.
        min_threshold: Workers in percent of the cores below which there are too few (CFG, SRC: 70).
        max_threshold: Percent above which there are too many (CFG, SRC: 200).
        min_wait_share: Share of the step time spent waiting below which few workers are enough (OURS).
        min_wait_ms: Wait below which they are too, milliseconds a step (OURS).
        min_steps: Timed steps that a wait is measured over (OURS).

    Source: CFG, SRC 3; undocumented by AWS.
    """
    workers, cores = settings.get("num_workers"), settings.get("cores")
    if not isinstance(workers, int) or not isinstance(cores, (int, float)) or not cores:
        return not_applicable("the number of workers or cores is not known")
    percent = 100 * workers / cores
    share, milliseconds = None, float("inf")
    if step_times is not None:
        count = len(step_times.steps) - WARM_UP
        if count >= min_steps:
            share, milliseconds = waiting(step_times)
        elif percent < min_threshold:
            return insufficient(f"few workers, but {max(count, 0)} timed steps; it takes {min_steps}")
    text = f"{workers} workers for {cores:g} cores (%)"
    if percent < min_threshold and (share is None or share > min_wait_share) and milliseconds > min_wait_ms:
        seen = Evidence(text, "data.num_workers", None, percent, min_threshold)
        return issue("too few data loader workers", f"data.num_workers={max(1, int(cores))}", [seen], datapoints=1)
    if percent > max_threshold:
        seen = Evidence(text, "data.num_workers", None, percent, max_threshold)
        return issue("too many data loader workers", f"data.num_workers={max(1, int(cores))}", [seen], datapoints=1)
    waited = "" if share is None else f", {share:.1%} of the step time is waiting"
    return ok(f"{workers} workers for {cores:g} cores{waited}", datapoints=1)


def step_statistics(total: Array) -> dict[str, float]:
    """Returns mean, p50, p95, p99 and max of step times, seconds; {} for none."""
    if not len(total):
        return {}
    p50, p95, p99 = np.percentile(total, (50, 95, 99))
    return {"mean": float(total.mean()), "p50": p50, "p95": p95, "p99": p99, "max": float(total.max())}


@rule("OverallFrameworkMetrics", aws_name="OverallFrameworkMetrics", group="profiler", priority=91)
def overall_framework_metrics(step_times: StepTimes, settings: Settings | None = None) -> Outcome:
    """Shows where the time went; it never fires.

    Args:
        step_times: Training steps and phases of the run.
        settings: The run's settings; `batch_size`, for images a second.

    Source: DOC 3 (absent from CFG): shares of phases and of the parts of a step, which add up to 100 %.
    """
    total = step_times.total
    if not len(total):
        return insufficient("no step was timed")
    steady = step_times.total[WARM_UP:] if len(total) > WARM_UP else total
    whole = max(float(total.sum()), 1e-9)
    parts = {name: 100 * float(values.sum()) / whole for name, values in step_times.parts.items()}
    phase_sum = max(sum(step_times.phases_s.values()), 1e-9)
    phases = {name: 100 * seconds / phase_sum for name, seconds in step_times.phases_s.items()}
    statistics = step_statistics(steady)
    details: dict[str, Any] = {"parts_percent": parts, "phases_percent": phases, "step_s": statistics}
    batch = (settings or {}).get("batch_size")
    if isinstance(batch, int):
        details["images_a_second"] = batch / statistics["mean"]
    text = f"a step takes {1000 * statistics['p50']:.0f} ms (median), " + ", ".join(
        f"{name} {value:.0f} %" for name, value in parts.items() if value >= 1
    )
    return ok(text, datapoints=len(total), details=details)
