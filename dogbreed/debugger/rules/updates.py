"""Rules about updates of the weights: too large, too small, none at all, other than in another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.rules.tensor_selection import chosen_tensors, observations
from dogbreed.debugger.series import Flags, TensorSeries

Settings = Mapping[str, Any]


def moving_weights(updates: TensorSeries) -> list[int]:
    """Returns the columns of parameters that are meant to move and had a size to begin with.

    A frozen parameter has ratio 0, and one that starts as zeros (a new head's bias, a zero-initialised norm) has a
    ratio of about 1e9 at its first step: both would be false alarms.
    """
    start = updates.stat("weight_abs_mean")
    first = np.array([column[np.isfinite(column)][:1].sum() for column in start.T])
    return [i for i, name in enumerate(updates.names) if not updates.tagged(name, "frozen") and first[i] > 1e-12]


def while_learning(updates: TensorSeries) -> Flags:
    """Returns (S,) which recorded steps had a learning rate above 0; all of them, where none had one."""
    if updates.lr is None:
        return np.ones(len(updates.steps), dtype=bool)
    on = updates.lr > 0
    return on if on.any() else np.ones_like(on)


def driven(updates: TensorSeries, gradients: TensorSeries | None) -> Flags:
    """Returns (S, N) which updates had a gradient behind them: a weight without one stays, whatever the rate."""
    flags = np.ones((len(updates.steps), len(updates.names)), dtype=bool)
    if gradients is None:
        return flags
    size = gradients.stat("abs_mean")
    for column, name in enumerate(updates.names):
        if name in gradients.names:
            of_tensor = dict(zip(gradients.steps.tolist(), size[:, gradients.names.index(name)].tolist(), strict=True))
            flags[:, column] = [of_tensor.get(step, 1.0) != 0 for step in updates.steps.tolist()]
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
    num_steps: int | None = None,
    large_threshold: float = 10.0,
    small_threshold: float = 1e-8,
    epsilon: float = 1e-9,
) -> Outcome:
    """Weights move by more than they are, or not at all.

    Ratio: mean |update| / (mean |weight before| + epsilon), over one optimizer step (`num_steps` None) (OURS: the
    formula; the recorder looks at the weights before and after the step, whatever its interval).

    Args:
        updates: Update statistics `abs_mean` and `weight_abs_mean`.
        gradients: Gradient statistics; where a gradient is exactly 0 the rate is not to blame (OURS).
        settings: The run's settings, for the suggestion.
        num_steps: Steps between the two looks; only None (DOC, CFG default: the previous one) can be evaluated.
        large_threshold: Ratio above which an update is too large (DOC, CFG: 10).
        small_threshold: Ratio below which nothing moves (DOC, CFG: 1e-8).
        epsilon: Added to the weights' size (DOC, CFG: 1e-9).

    Source: DOC 2.1. Frozen and zero-initialised parameters and warm-up steps with lr=0 are left out, and biases may
    stand still: one before a batch norm has no gradient (OURS).
    """
    if num_steps is not None:
        return insufficient(f"updates are recorded over one optimizer step, not over num_steps={num_steps}")
    columns = moving_weights(updates)
    if not columns:
        return not_applicable("no trainable parameter (frozen and zero-initialised ones are left out)")
    ratio = updates.stat("abs_mean") / (updates.stat("weight_abs_mean") + epsilon)
    counted = while_learning(updates)[:, None] & driven(updates, gradients)
    ratio = np.where(counted, ratio, np.nan)[:, columns]
    datapoints = int(np.isfinite(ratio).sum())
    if not datapoints:
        return insufficient("no finite update was recorded")
    part = TensorSeries(tuple(updates.names[i] for i in columns), updates.steps, {})
    large = observations(part, ratio > large_threshold, ratio, "update / weight", large_threshold)
    still = (ratio < small_threshold) & ~np.array([updates.tagged(name, "bias") for name in part.names])
    small = observations(part, still, ratio, "update / weight", small_threshold)
    if large:
        summary = f"{_parameters(large)} moved by more than {large_threshold:g} times its size"
        return issue(summary, suggestions.learning_rate(settings, 0.1), large + small, datapoints=datapoints)
    if small:
        summary = f"{_parameters(small)} did not move (update / weight below {small_threshold:g})"
        return issue(summary, suggestions.learning_rate(settings, 10), small, datapoints=datapoints)
    return ok(f"update / weight is {np.nanmedian(ratio):.2g} (median)", datapoints=datapoints)


def moved_elsewhere(updates: TensorSeries | None, name: str, steps: Sequence[int], rtol: float, atol: float) -> bool:
    """Returns whether an element that is not in the sample moved in the optimizer's step at one of `steps`."""
    if updates is None or name not in updates.names:
        return False
    column = updates.names.index(name)
    rows = np.isin(updates.steps, steps)
    size = updates.stat("weight_abs_mean")[rows, column]
    return bool((updates.stat("abs_max")[rows, column] > atol + rtol * size).any())


def _parameters(evidence: Sequence[Evidence]) -> str:
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
    collection_names: Sequence[str] | str | None = None,
    tensor_regex: Sequence[str] | str | None = None,
    num_steps: int = 3,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
) -> Outcome:
    """A tensor that should learn stays what it was.

    Compared are the same `series.SAMPLE_SIZE` elements of the tensor at each recorded step, and where updates were
    recorded, the largest of thousands of elements (OURS; AWS compares all).
    Frozen parameters are expected to stay, and of a whole collection biases may: before a batch norm they have no
    gradient (OURS).

    Args:
        tensors: Collections of tensors with their samples.
        settings: The run's settings, for the suggestion.
        collection_names: Collections to look at; this or `tensor_regex` must be given (DOC).
        tensor_regex: Names to look at.
        num_steps: Available values in a row that must be all close (DOC, CFG: 3).
        rtol: Relative tolerance of `numpy.allclose` (DOC, CFG: 1e-5).
        atol: Absolute tolerance (DOC, CFG: 1e-8).
        equal_nan: Whether two NaN are equal (DOC, CFG: false).

    Raises:
        ValueError: neither collection nor regex is given.

    Source: DOC 2.1; TST oracle: ones at steps 0, 1, 2 fire exactly at step 2.
    """
    if collection_names is None and tensor_regex is None:
        raise ValueError("UnchangedTensor needs collection_names (such as [weights]) or tensor_regex")
    evidence = []
    datapoints = longest = 0
    for collection, (series, columns) in chosen_tensors(tensors, collection_names, tensor_regex).items():
        if series.samples is None:
            continue
        for column in columns:
            name = series.names[column]
            if series.tagged(name, "frozen") or (series.tagged(name, "bias") and tensor_regex is None):
                continue
            rows = np.flatnonzero(~np.isnan(series.stat("zero_fraction")[:, column]))
            datapoints += len(rows)
            longest = max(longest, len(rows))
            for last in range(num_steps - 1, len(rows)):
                window = series.samples[rows[last - num_steps + 1 : last + 1], column]
                steps = series.steps[rows[last - num_steps + 1 : last]].tolist()
                still = all(np.allclose(window[0], later, rtol, atol, equal_nan) for later in window[1:])
                if still and not moved_elsewhere(tensors.get("updates"), name, steps, rtol, atol):
                    text = f"unchanged in {collection} over {num_steps} recorded steps"
                    evidence.append(Evidence(text, name, int(series.steps[rows[last]]), num_steps, num_steps))
    if evidence:
        summary = f"{len({item.tensor for item in evidence})} trainable tensors do not change"
        return issue(summary, suggestions.learning_rate(settings, 10), evidence, datapoints=datapoints)
    if longest < num_steps:
        return insufficient(f"at most {longest} recorded values of a trainable tensor; it takes {num_steps}")
    return ok("every trainable tensor changes", datapoints=datapoints)


@rule("SimilarAcrossRuns", aws_name="SimilarAcrossRuns", group="tensor", priority=60)
def similar_across_runs(
    tensors: Mapping[str, TensorSeries],
    other_runs: Mapping[str, Mapping[str, TensorSeries]],
    *,
    other_trials: Sequence[str] = (),
    collection_names: Sequence[str] | str | None = "weights",
    tensor_regex: Sequence[str] | str | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-8,
) -> Outcome:
    """The tensors of two runs differ at a common step: a check that a training can be repeated.

    Args:
        tensors: Collections of this run, with samples.
        other_runs: Run name to its collections.
        other_trials: Folders of those runs (DOC text: other_trial); the report reads them into `other_runs`.
        collection_names: Collections to compare.
        tensor_regex: Names to compare.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Source: DOC 2.1; it fires where tensors *differ*, as TST says, whatever its name suggests.
    """
    evidence = []
    compared = 0
    for run, theirs in other_runs.items():
        for collection, (series, columns) in chosen_tensors(tensors, collection_names, tensor_regex).items():
            other = theirs.get(collection)
            if other is None or other.samples is None or series.samples is None:
                continue
            for step in np.intersect1d(series.steps, other.steps):
                mine, their = (int(np.searchsorted(item.steps, step)) for item in (series, other))
                for name in (series.names[i] for i in columns if series.names[i] in other.names):
                    a = series.samples[mine, series.names.index(name)]
                    b = other.samples[their, other.names.index(name)]
                    if np.isnan(a).all() or np.isnan(b).all():
                        continue
                    compared += 1
                    if not np.allclose(a, b, rtol, atol):
                        worst = float(np.nanmax(np.abs(a - b) / (np.abs(b) + atol)))
                        evidence.append(Evidence(f"differs from {run} (relative)", name, int(step), worst, rtol))
    if evidence:
        evidence.sort(key=lambda item: item.step or 0)
        summary = f"the runs differ from step {evidence[0].step} on ({evidence[0].tensor})"
        return issue(summary, "trainer.deterministic=true", evidence, datapoints=compared)
    return (
        ok("the runs are the same", datapoints=compared) if compared else insufficient("the runs have no common step")
    )
