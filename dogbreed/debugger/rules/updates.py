"""Rules about changes of the weights: too large, too small, none, or different from another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, Suggestion, counted, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.rules.tensor_selection import Names, observations, require_names, select_tensors
from dogbreed.debugger.series import Array, Flags, TensorSeries


def nonzero_at_start(updates: TensorSeries) -> TensorSeries:
    """Returns the parameters that did not start as zeros.

    A new head's bias or a zero-initialized norm has an update ratio of about 1e9 at its first step.
    """
    start = updates.stat("weight_abs_mean")
    first = [column[np.isfinite(column)][:1].sum() for column in start.T]
    return updates.columns([i for i, size in enumerate(first) if size > 1e-12])


def update_ratio(updates: TensorSeries, gradients: TensorSeries | None, epsilon: float = 1e-9) -> Array:
    """Returns (S, N) mean |update| / (mean |weight| + epsilon); NaN at steps without information about the rate.

    These are the steps of a warm-up with a learning rate of 0 (unless all steps are) and those with a zero gradient.
    """
    ratio = updates.stat("abs_mean") / (updates.stat("weight_abs_mean") + epsilon)
    return np.where(_has_rate(updates)[:, None] & _has_gradient(updates, gradients), ratio, np.nan)


def _has_rate(updates: TensorSeries) -> Flags:
    """Returns (S,): whether the learning rate is above 0; all true if it never is."""
    if updates.lr is None or not (updates.lr > 0).any():
        return np.ones(len(updates.steps), dtype=bool)
    result: Flags = updates.lr > 0
    return result


def _has_gradient(updates: TensorSeries, gradients: TensorSeries | None) -> Flags:
    """Returns (S, N): whether the gradient is not exactly zero; true if it was not recorded."""
    flags = np.ones((len(updates.steps), len(updates.names)), dtype=bool)
    if gradients is None:
        return flags
    size = gradients.stat("abs_mean")
    for column, name in enumerate(updates.names):
        if name in gradients.names:
            by_step = dict(zip(gradients.steps.tolist(), size[:, gradients.names.index(name)].tolist(), strict=True))
            flags[:, column] = [by_step.get(step, 1.0) != 0 for step in updates.steps.tolist()]
    return flags


@rule(
    "WeightUpdateRatio",
    aws_name="WeightUpdateRatio",
    group="tensor",
    priority=12,
    caused_by=("LearningRateTooHigh", "LearningRateTooLow", "ExplodingTensor"),
)
def weight_update_ratio(
    updates: TensorSeries,
    gradients: TensorSeries | None = None,
    settings: Settings | None = None,
    *,
    large_threshold: float = 10.0,
    small_threshold: float = 1e-8,
    epsilon: float = 1e-9,
) -> Outcome:
    """Detects weights that change by more than their size, or not at all.

    The ratio is mean |update| / (mean |weight before| + epsilon) over one optimizer step. Zero-initialized
    parameters and warm-up steps with lr=0 are skipped. Biases may stand still: before a batch norm they have no
    gradient.

    Args:
        updates: Update statistics `abs_mean` and `weight_abs_mean`.
        gradients: Gradient statistics; steps with a gradient of exactly 0 are skipped.
        settings: The run's settings; `lr`, for the suggestion.
        large_threshold: Ratio above which an update is too large. AWS: 10.
        small_threshold: Ratio below which a weight does not change. AWS: 1e-8.
        epsilon: Added to the weight's size. AWS: 1e-9.

    Statuses:
        issue: A ratio is outside the thresholds.
        not_applicable: No trainable parameter, or all of them start as zeros.
        insufficient_data: No finite update was recorded.

    Source: AWS, which compares saved steps (`num_steps`); updates of one step are recorded here.
    """
    updates = nonzero_at_start(updates)
    if not updates.names:
        return not_applicable("no trainable parameter (zero-initialized ones are skipped)")
    ratio = update_ratio(updates, gradients, epsilon)
    datapoints = int(np.isfinite(ratio).sum())
    if not datapoints:
        return insufficient("no finite update was recorded")
    large = observations(updates, ratio > large_threshold, ratio, "update / weight", large_threshold)
    still = (ratio < small_threshold) & ~np.array([updates.tagged(name, "bias") for name in updates.names])
    small = observations(updates, still, ratio, "update / weight", small_threshold)
    if large:
        summary = f"{_names(large)} changed by more than {large_threshold:g} times its size in a step"
        return issue(summary, suggestions.learning_rate(settings, 0.1), large + small, datapoints=datapoints)
    if small:
        summary = f"{_names(small)} did not change (update / weight below {small_threshold:g})"
        return issue(summary, suggestions.learning_rate(settings, 10), small, datapoints=datapoints)
    return ok(f"update / weight is {np.nanmedian(ratio):.2g} (median)", datapoints=datapoints)


def _names(evidence: Sequence[Evidence]) -> str:
    names = sorted({item.tensor for item in evidence})
    return names[0] if len(names) == 1 else f"each of {len(names)} parameters"


@rule(
    "UnchangedTensor",
    aws_name="UnchangedTensor",
    group="tensor",
    priority=24,
    caused_by=("LearningRateTooLow", "VanishingGradient"),
)
def unchanged_tensor(
    tensors: Mapping[str, TensorSeries],
    settings: Settings | None = None,
    *,
    collection_names: Names = None,
    tensor_regex: Names = None,
    num_steps: int = 3,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
) -> Outcome:
    """Detects trainable tensors that keep their values.

    Compares the same `series.SAMPLE_SIZE` elements at each recorded step and, if updates were recorded, the largest
    update. Biases in a collection may stand still: before a batch norm they have no gradient.

    Args:
        tensors: Collections of tensors with their samples.
        settings: The run's settings; `lr`, for the suggestion.
        collection_names: Collections to check; this or `tensor_regex` is required. AWS: None; reports use `weights`.
        tensor_regex: Names to check. AWS: None.
        num_steps: Consecutive recorded values that must be equal. AWS: 3.
        rtol: Relative tolerance of `numpy.allclose`. AWS: 1e-5.
        atol: Absolute tolerance. AWS: 1e-8.
        equal_nan: Whether two NaN are equal. AWS: false.

    Statuses:
        issue: A tensor has the same values at `num_steps` recorded steps.
        insufficient_data: No tensor has that many recorded values.

    Raises:
        ValueError: Neither collection nor regex is given.

    Source: AWS, which compares all elements.
    """
    require_names("UnchangedTensor", collection_names, tensor_regex)
    evidence = []
    datapoints = longest = 0
    for collection, series in select_tensors(tensors, collection_names, tensor_regex).items():
        if series.samples is None:
            continue
        for column, name in enumerate(series.names):
            if series.tagged(name, "bias") and tensor_regex is None:
                continue
            rows = np.flatnonzero(~np.isnan(series.stat("zero_fraction")[:, column]))
            datapoints += len(rows)
            longest = max(longest, len(rows))
            for last in range(num_steps - 1, len(rows)):
                window = rows[last - num_steps + 1 : last + 1]
                first, *later = series.samples[window, column]
                if not all(np.allclose(first, values, rtol, atol, equal_nan) for values in later):
                    continue
                steps = series.steps[window[:-1]].tolist()
                if not _has_update(tensors.get("updates"), name, steps, rtol, atol):
                    text = f"unchanged in {collection} over {num_steps} recorded steps"
                    evidence.append(Evidence(text, name, int(series.steps[rows[last]]), num_steps, num_steps))
    if evidence:
        summary = f"{counted(len({item.tensor for item in evidence}), 'trainable tensor')} without any change"
        return issue(summary, suggestions.learning_rate(settings, 10), evidence, datapoints=datapoints)
    if longest < num_steps:
        return insufficient(f"at most {longest} recorded values of a trainable tensor, {num_steps} needed")
    return ok("every trainable tensor changes", datapoints=datapoints)


def _has_update(updates: TensorSeries | None, name: str, steps: Sequence[int], rtol: float, atol: float) -> bool:
    """Returns whether the optimizer changed an element, perhaps outside the sample, at one of `steps`."""
    if updates is None or name not in updates.names:
        return False
    column = updates.names.index(name)
    rows = np.isin(updates.steps, steps)
    size = updates.stat("weight_abs_mean")[rows, column]
    return bool((updates.stat("abs_max")[rows, column] > atol + rtol * size).any())


@rule("SimilarAcrossRuns", aws_name="SimilarAcrossRuns", group="tensor", priority=60)
def similar_across_runs(
    tensors: Mapping[str, TensorSeries],
    other_runs: Mapping[str, Mapping[str, TensorSeries]],
    *,
    other_trials: Names = (),
    collection_names: Names = "weights",
    tensor_regex: Names = None,
    rtol: float = 1e-5,
    atol: float = 1e-8,
) -> Outcome:
    """Detects that two runs differ, to check that a training is reproducible.

    Args:
        tensors: Collections of this run, with samples.
        other_runs: Run name to its collections; the report reads them from `other_trials`.
        other_trials: Folders of the other runs.
        collection_names: Collections to compare. AWS: None.
        tensor_regex: Names to compare. AWS: None.
        rtol: Relative tolerance of `numpy.allclose`.
        atol: Absolute tolerance.

    Statuses:
        issue: A tensor differs at a common step.
        not_applicable: No other run is given.
        insufficient_data: The runs have no common step.

    Source: AWS; despite its name it fires if tensors differ.
    """
    evidence: list[Evidence] = []
    compared = 0
    for run, theirs in other_runs.items():
        for collection, series in select_tensors(tensors, collection_names, tensor_regex).items():
            other = theirs.get(collection)
            if other is None or other.samples is None or series.samples is None:
                continue
            for step in np.intersect1d(series.steps, other.steps):
                row, other_row = (int(np.searchsorted(item.steps, step)) for item in (series, other))
                for name in (name for name in series.names if name in other.names):
                    a = series.samples[row, series.names.index(name)]
                    b = other.samples[other_row, other.names.index(name)]
                    if np.isnan(a).all() or np.isnan(b).all():
                        continue
                    compared += 1
                    if not np.allclose(a, b, rtol, atol):
                        worst = float(np.nanmax(np.abs(a - b) / (np.abs(b) + atol)))
                        evidence.append(Evidence(f"relative difference from {run}", name, int(step), worst, rtol))
    if evidence:
        evidence.sort(key=lambda item: item.step or 0)
        summary = f"the runs differ from step {evidence[0].step} on ({evidence[0].tensor})"
        suggestion = Suggestion("use deterministic algorithms", "trainer.deterministic", True)
        return issue(summary, suggestion, evidence, datapoints=compared)
    return ok("the runs are equal", datapoints=compared) if compared else insufficient("the runs have no common step")
