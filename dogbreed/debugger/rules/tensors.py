"""Rules about single tensors: not finite, without gradient, all zeros, with an extreme variance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, counted, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.rules.tensor_selection import Names, in_a_row, observations, require_names, select_tensors
from dogbreed.debugger.series import Array, Flags, Series, TensorSeries

NO_MATCH = "no recorded tensor matches collection_names or tensor_regex"


@rule(
    "ExplodingTensor",
    aws_name="ExplodingTensor",
    group="tensor",
    priority=1,
    caused_by=("LearningRateTooHigh",),
)
def exploding_tensor(
    tensors: Mapping[str, TensorSeries],
    losses: Series | None = None,
    settings: Settings | None = None,
    *,
    collection_names: Names = None,
    tensor_regex: Names = None,
    only_nan: bool = False,
) -> Outcome:
    """Detects NaN or infinity in a tensor or in the loss.

    Steps that the gradient scaler of mixed precision skipped do not count: infinite gradients are how it finds its
    scale. Evidence is ordered by step, then in forward order.

    Args:
        tensors: Collections of tensor statistics; `abs_max` is checked.
        losses: Training loss by optimizer step; checked unless names are given.
        settings: The run's settings; `lr`, for the suggestion.
        collection_names: Collections to check, a list or text with commas; None and no regex: all. AWS: None.
        tensor_regex: Names to check besides those collections. AWS: None.
        only_nan: Whether infinity is ignored. AWS: false.

    Statuses:
        issue: A value is not finite.
        insufficient_data: No recorded tensor matches.

    Source: AWS.
    """
    everything = collection_names is None and tensor_regex is None
    evidence: list[Evidence] = []
    datapoints = 0
    selected = select_tensors(tensors, list(tensors) if everything else collection_names, tensor_regex)
    for collection, series in selected.items():
        values = series.stat("abs_max")
        # A tensor that was not recorded at a step has NaN in every statistic, a recorded one has a zero fraction.
        is_bad = np.isnan(values) | (np.isinf(values) & (not only_nan))
        is_bad &= ~np.isnan(series.stat("zero_fraction"))
        if series.skipped is not None:
            is_bad &= ~series.skipped[:, None]
        datapoints += values.size
        for row, column in np.argwhere(is_bad):
            text = f"{'NaN' if np.isnan(values[row, column]) else 'infinity'} in {collection}"
            name, step = series.names[column], int(series.steps[row])
            evidence.append(Evidence(text, name, step, float(values[row, column])))
    if everything and losses is not None:
        datapoints += len(losses)
        for step, value in zip(losses.steps, losses.values, strict=True):
            if np.isnan(value) or (np.isinf(value) and not only_nan):
                evidence.append(Evidence("training loss is not a number", "loss", int(step), float(value)))
    if not datapoints:
        return insufficient(NO_MATCH)
    if not evidence:
        return ok("every recorded tensor is finite", datapoints=datapoints)
    evidence.sort(key=lambda item: item.step or 0)
    summary = f"{evidence[0].text} ({evidence[0].tensor}) at step {evidence[0].step}"
    return issue(summary, suggestions.learning_rate(settings, 0.1), evidence, datapoints=datapoints)


@rule(
    "VanishingGradient",
    aws_name="VanishingGradient",
    group="tensor",
    priority=20,
    caused_by=("PoorWeightInitialization", "DeadRelu", "SaturatedActivation"),
)
def vanishing_gradient(
    gradients: TensorSeries,
    losses: Series | None = None,
    settings: Settings | None = None,
    *,
    threshold: float = 1e-7,
    patience: int = 3,
    min_loss: float = 1e-3,
) -> Outcome:
    """Detects weights whose gradient is too small to learn from.

    Biases are skipped: before a batch norm their gradient is zero in theory and 1e-9 in floating point. So are
    branches behind a zero-initialized norm while their gradient rises from zero.

    Args:
        gradients: Gradient statistics; `abs_mean` is checked.
        losses: Training loss by optimizer step.
        settings: The run's settings; `lr` and `pretrained`, for the suggestion.
        threshold: Mean absolute gradient below which a weight does not learn. AWS: 1e-7.
        patience: Consecutive recorded steps. AWS: 1.
        min_loss: Steps with a lower loss are skipped.

    Statuses:
        issue: A weight's gradient is below the threshold for `patience` recorded steps.
        not_applicable: No weight has a gradient.
        insufficient_data: Fewer than `patience` recorded steps.

    Source: AWS; the exceptions, `patience` and `min_loss` are additions.
    """
    gradients = gradients.columns([i for i, name in enumerate(gradients.names) if not gradients.tagged(name, "bias")])
    if not gradients.names:
        return not_applicable("no weight has a gradient (biases are skipped)")
    values = gradients.stat("abs_mean")
    if losses is not None and len(losses):
        at = np.interp(gradients.steps, losses.steps, np.nan_to_num(losses.values, nan=1.0, posinf=1.0))
        values = np.where((at < min_loss)[:, None], np.nan, values)
    finite = np.isfinite(values)
    if finite.sum(axis=0).max(initial=0) < patience:
        steps = counted(len(gradients.steps), "recorded step")
        return insufficient(f"{steps} with a loss to learn from, {patience} needed")
    flags = in_a_row(finite & (values < threshold), patience) & ~_rises_from_zero(values)
    if not flags.any():
        smallest = float(np.nanmin(np.nanmedian(values[:, finite.any(axis=0)], axis=0)))
        return ok(f"the smallest gradient is {smallest:.2g} (median over the run)", datapoints=int(finite.sum()))
    evidence = observations(gradients, flags, values, f"mean |gradient| for {patience} recorded steps", threshold)
    summary = f"{flags.any(axis=0).sum()} of {len(gradients.names)} weights get no gradient (below {threshold:g})"
    is_pretrained = (settings or {}).get("pretrained")
    suggestion = suggestions.learning_rate(settings, 3) if is_pretrained else suggestions.PRETRAINED_WEIGHTS
    return issue(summary, suggestion, evidence, datapoints=int(finite.sum()))


def _rises_from_zero(values: Array) -> Flags:
    """Returns (S, N): whether a value began at 0 and has risen at every step since."""
    rises = np.vstack([values[:1] == 0, np.diff(values, axis=0) > 0])
    result: Flags = np.logical_and.accumulate(rises, axis=0)
    return result


@rule(
    "AllZero",
    aws_name="AllZero",
    group="tensor",
    priority=22,
    caused_by=("PoorWeightInitialization",),
)
def all_zero(
    tensors: Mapping[str, TensorSeries],
    *,
    collection_names: Names = None,
    tensor_regex: Names = None,
    threshold: float = 100.0,
) -> Outcome:
    """Detects tensors that are all zeros.

    Biases and norm weights start as zeros or ones by design. They are skipped in a collection; if a regex selects
    them, they are skipped at step 0 only.

    Args:
        tensors: Collections of tensor statistics; `zero_fraction` is checked.
        collection_names: Collections to check; this or `tensor_regex` is required. AWS: None; reports use `weights`.
        tensor_regex: Names to check. AWS: None.
        threshold: Percent of zeros from which on a tensor counts. AWS: 100.

    Statuses:
        issue: A tensor has that many zeros.
        insufficient_data: No recorded tensor matches.

    Raises:
        ValueError: Neither collection nor regex is given.

    Source: AWS; the exceptions are additions.
    """
    require_names("AllZero", collection_names, tensor_regex)
    evidence = []
    datapoints = 0
    for collection, series in select_tensors(tensors, collection_names, tensor_regex).items():
        values = 100 * series.stat("zero_fraction")
        by_design = np.array([series.tagged(name, "bias", "norm") for name in series.names])[None, :]
        if tensor_regex is not None:
            by_design = by_design & (series.steps == 0)[:, None]
        checked = np.isfinite(values) & ~by_design
        datapoints += int(checked.sum())
        flags = checked & (values >= threshold)
        evidence += observations(series, flags, values, f"% zeros in {collection}", threshold)
    if not datapoints:
        return insufficient(NO_MATCH)
    if not evidence:
        return ok("no tensor is all zeros", datapoints=datapoints)
    names = {item.tensor for item in evidence}
    summary = f"{counted(len(names), 'tensor')} with at least {threshold:g} % zeros, first {evidence[0].tensor}"
    return issue(summary, suggestions.PRETRAINED_WEIGHTS, evidence, datapoints=datapoints)


@rule(
    "TensorVariance",
    aws_name="TensorVariance",
    group="tensor",
    priority=45,
    caused_by=("LearningRateTooHigh", "ExplodingTensor"),
)
def tensor_variance(
    tensors: Mapping[str, TensorSeries],
    settings: Settings | None = None,
    *,
    collection_names: Names = None,
    tensor_regex: Names = None,
    max_threshold: float | None = None,
    min_threshold: float | None = None,
) -> Outcome:
    """Detects tensors whose variance is outside the given limits.

    Args:
        tensors: Collections of tensor statistics; `var` is checked.
        settings: The run's settings; `lr`, for the suggestion.
        collection_names: Collections to check; this or `tensor_regex` is required. AWS: None; reports use `weights`.
        tensor_regex: Names to check. AWS: None.
        max_threshold: Largest variance; None: any. AWS: None, its example uses 10; reports use 10.
        min_threshold: Smallest variance; None: any. AWS: None, its example uses 1e-5.

    Statuses:
        issue: A variance is outside the limits.
        insufficient_data: No recorded tensor matches.

    Raises:
        ValueError: No tensors are named, or no limit is given.

    Source: AWS, which reports "no issues found" if no limit is given.
    """
    require_names("TensorVariance", collection_names, tensor_regex)
    if max_threshold is None and min_threshold is None:
        raise ValueError("TensorVariance needs max_threshold, min_threshold or both")
    high = np.inf if max_threshold is None else max_threshold
    low = -np.inf if min_threshold is None else min_threshold
    evidence = []
    datapoints = 0
    for collection, series in select_tensors(tensors, collection_names, tensor_regex).items():
        values = series.stat("var")
        datapoints += int(np.isfinite(values).sum())
        evidence += observations(series, values > high, values, f"variance in {collection}", high)
        evidence += observations(series, values < low, values, f"variance in {collection}", low)
    if not datapoints:
        return insufficient(NO_MATCH)
    if not evidence:
        return ok("every variance is within the limits", datapoints=datapoints)
    limits = [f"above {high:g}"] * (max_threshold is not None) + [f"below {low:g}"] * (min_threshold is not None)
    names = counted(len({item.tensor for item in evidence}), "tensor")
    summary = f"the variance of {names} is {' or '.join(limits)}"
    return issue(summary, suggestions.learning_rate(settings, 0.3), evidence, datapoints=datapoints)
