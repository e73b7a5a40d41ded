"""Rules about gradients, weights and their updates. Sources are given as in `design/debugger-rules.md`:
DOC (AWS's list of built-in rules), CFG (`smdebug_rulesconfig`), TST (old public tests), OURS (our decision)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.rules.tensor_selection import chosen_tensors, observations, runs_of
from dogbreed.debugger.series import Array, Flags, Series, TensorSeries

Settings = Mapping[str, Any]


@rule("ExplodingTensor", aws_name="ExplodingTensor", group="tensor", priority=1, caused_by=("LearningRateTooHigh",))
def exploding_tensor(
    tensors: Mapping[str, TensorSeries],
    losses: Series | None = None,
    settings: Settings | None = None,
    *,
    collection_names: Sequence[str] | str | None = None,
    tensor_regex: Sequence[str] | str | None = None,
    only_nan: bool = False,
) -> Outcome:
    """A tensor or the loss holds NaN or infinity.

    Steps that the gradient scaler of mixed precision skipped are not counted (OURS: infinite gradients are how it
    finds its scale). The first tensor in forward order of the first such step comes first.

    Args:
        tensors: Collections of tensor statistics; `abs_max` is looked at.
        losses: Training loss by optimizer step.
        settings: The run's settings, for the suggestion.
        collection_names: Collections to look at; None and no regex: all (DOC default).
        tensor_regex: Names to look at, besides those collections.
        only_nan: Infinity is not counted (DOC default: false).

    Source: DOC 2.1; defaults DOC = CFG.
    """
    everything = collection_names is None and tensor_regex is None
    chosen = chosen_tensors(tensors, list(tensors) if everything else collection_names, tensor_regex)
    evidence = []
    datapoints = 0
    for collection, (series, columns) in chosen.items():
        values = series.stat("abs_max")[:, columns]
        bad = _broken(values, series.stat("zero_fraction")[:, columns], only_nan)
        if series.skipped is not None:
            bad &= ~series.skipped[:, None]
        datapoints += values.size
        for row, column in np.argwhere(bad):
            text = f"{'NaN' if np.isnan(values[row, column]) else 'infinity'} in {collection}"
            name = series.names[columns[column]]
            evidence.append(Evidence(text, name, int(series.steps[row]), float(values[row, column])))
    if everything and losses is not None:
        datapoints += len(losses)
        for step, value in zip(losses.steps, losses.values, strict=True):
            if np.isnan(value) or (np.isinf(value) and not only_nan):
                evidence.append(Evidence("training loss is not a number", "loss", int(step), float(value)))
    if not datapoints:
        return insufficient("no recorded tensor matches collection_names or tensor_regex")
    if not evidence:
        return ok("every recorded tensor is finite", datapoints=datapoints)
    evidence.sort(key=lambda item: item.step or 0)
    summary = f"{evidence[0].text} ({evidence[0].tensor}) at step {evidence[0].step}"
    return issue(summary, suggestions.learning_rate(settings, 0.1), evidence, datapoints=datapoints)


def _broken(abs_max: Array, zero_fraction: Array, only_nan: bool) -> Flags:
    # nan in every statistic means that the tensor was not recorded at that step; a recorded tensor has a zero fraction.
    recorded = ~np.isnan(zero_fraction)
    return recorded & (np.isnan(abs_max) | (np.isinf(abs_max) & (not only_nan)))


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
    """A weight's gradient is so small that the weight cannot learn.

    Biases are left out: one before a batch norm has a gradient that is zero in theory and 1e-9 in floating point, on
    a perfectly healthy network (OURS). So are frozen parameters, steps at which the loss itself is all but zero, and
    branches behind a zero-initialised norm while their gradient rises from zero.

    Args:
        gradients: Gradient statistics; `abs_mean` is compared.
        losses: Training loss by optimizer step.
        settings: The run's settings, for the suggestion.
        threshold: Mean absolute value below which a gradient has vanished (DOC, CFG: 1e-7).
        patience: Recorded steps in a row that it takes (OURS: 3; AWS: 1).
        min_loss: Steps with a lower loss are left out (OURS).

    Source: DOC 2.1, TST note that step 0 never fires.
    """
    columns = [i for i, name in enumerate(gradients.names) if not gradients.tagged(name, "bias", "frozen")]
    if not columns:
        return not_applicable("no trainable weight has a gradient (biases and frozen parameters are left out)")
    values = gradients.stat("abs_mean")[:, columns]
    if losses is not None and len(losses):
        at = np.interp(gradients.steps, losses.steps, np.nan_to_num(losses.values, nan=1.0, posinf=1.0))
        values = np.where((at < min_loss)[:, None], np.nan, values)
    finite = np.isfinite(values)
    if finite.sum(axis=0).max(initial=0) < patience:
        return insufficient(f"{len(gradients.steps)} recorded steps with a loss to learn from; it takes {patience}")
    small = finite & (values < threshold)
    flags = runs_of(small, patience) & ~_waking(values)
    if not flags.any():
        smallest = float(np.nanmin(np.nanmedian(values[:, finite.any(axis=0)], axis=0)))
        return ok(f"the smallest gradient is {smallest:.2g} (median over the run)", datapoints=int(finite.sum()))
    part = TensorSeries(tuple(gradients.names[i] for i in columns), gradients.steps, {})
    evidence = observations(part, flags, values, f"mean |gradient| for {patience} recorded steps", threshold)
    layers = int(flags.any(axis=0).sum())
    summary = f"{layers} of {len(columns)} weights get no gradient (below {threshold:g})"
    override = suggestions.learning_rate(settings, 3) if (settings or {}).get("pretrained") else "model.weights=hub"
    return issue(summary, override, evidence, datapoints=int(finite.sum()))


def _waking(values: Array) -> Flags:
    """Returns (S, N): where a value began at 0 and has risen at every step since."""
    rises = np.vstack([values[:1] == 0, np.diff(values, axis=0) > 0])
    waking: Flags = np.logical_and.accumulate(rises, axis=0)
    return waking


@rule("AllZero", aws_name="AllZero", group="tensor", priority=22, caused_by=("PoorWeightInitialization",))
def all_zero(
    tensors: Mapping[str, TensorSeries],
    settings: Settings | None = None,
    *,
    collection_names: Sequence[str] | str | None = None,
    tensor_regex: Sequence[str] | str | None = None,
    threshold: float = 100.0,
) -> Outcome:
    """A tensor is all zeros.

    Biases and norm weights start as zeros or ones by design, so of a whole collection they are left out, and gradients
    of frozen parameters too; a regex may name any of them, and then only step 0 is left out for biases (OURS).

    Args:
        tensors: Collections of tensor statistics; `zero_fraction` is compared.
        settings: The run's settings, for the suggestion.
        collection_names: Collections to look at; this or `tensor_regex` must be given (DOC).
        tensor_regex: Names to look at.
        threshold: Percent of zeros from which on a tensor counts, 100 by default (DOC, CFG).

    Raises:
        ValueError: neither collection nor regex is given.

    Source: DOC 2.1.
    """
    _need_choice("AllZero", collection_names, tensor_regex)
    evidence = []
    datapoints = 0
    for collection, (series, columns) in chosen_tensors(tensors, collection_names, tensor_regex).items():
        values = 100 * series.stat("zero_fraction")[:, columns]
        bias = np.array([series.tagged(series.names[i], "bias", "norm", "frozen") for i in columns])
        looked = np.isfinite(values)
        looked &= ~bias[None, :] if tensor_regex is None else ~(bias[None, :] & (series.steps == 0)[:, None])
        datapoints += int(looked.sum())
        part = TensorSeries(tuple(series.names[i] for i in columns), series.steps, {})
        evidence += observations(part, looked & (values >= threshold), values, f"% zeros in {collection}", threshold)
    if not datapoints:
        return insufficient("no recorded tensor matches collection_names or tensor_regex")
    if not evidence:
        return ok("no tensor is all zeros", datapoints=datapoints)
    names = {item.tensor for item in evidence}
    summary = f"{len(names)} tensors are {threshold:g} % zeros, first {evidence[0].tensor}"
    return issue(summary, "model.weights=hub", evidence, datapoints=datapoints)


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
    collection_names: Sequence[str] | str | None = None,
    tensor_regex: Sequence[str] | str | None = None,
    max_threshold: float | None = None,
    min_threshold: float | None = None,
) -> Outcome:
    """A tensor's variance is outside what the user expects of it.

    Args:
        tensors: Collections of tensor statistics; `var` is compared.
        settings: The run's settings, for the suggestion.
        collection_names: Collections to look at; this or `tensor_regex` must be given (DOC).
        tensor_regex: Names to look at.
        max_threshold: Largest variance that is still right, None: any (DOC, CFG; the sample sends 10).
        min_threshold: Smallest variance that is still right, None: any (the sample sends 1e-5).

    Raises:
        ValueError: nothing to look at is named, or neither threshold is (OURS: AWS says "no issues found").

    Source: DOC 2.1.
    """
    _need_choice("TensorVariance", collection_names, tensor_regex)
    if max_threshold is None and min_threshold is None:
        raise ValueError("TensorVariance needs max_threshold, min_threshold or both")
    high = np.inf if max_threshold is None else max_threshold
    low = -np.inf if min_threshold is None else min_threshold
    evidence = []
    datapoints = 0
    for collection, (series, columns) in chosen_tensors(tensors, collection_names, tensor_regex).items():
        values = series.stat("var")[:, columns]
        part = TensorSeries(tuple(series.names[i] for i in columns), series.steps, {})
        datapoints += int(np.isfinite(values).sum())
        evidence += observations(part, values > high, values, f"variance in {collection}", high)
        evidence += observations(part, values < low, values, f"variance in {collection}", low)
    if not datapoints:
        return insufficient("no recorded tensor matches collection_names or tensor_regex")
    if not evidence:
        return ok("every variance is inside the thresholds", datapoints=datapoints)
    limits = [f"above {high:g}"] * (max_threshold is not None) + [f"below {low:g}"] * (min_threshold is not None)
    names = len({item.tensor for item in evidence})
    summary = f"the variance of {names} tensor{'s' if names > 1 else ''} is {' or '.join(limits)}"
    return issue(summary, suggestions.learning_rate(settings, 0.3), evidence, datapoints=datapoints)


def _need_choice(name: str, collection_names: Any, tensor_regex: Any) -> None:
    if collection_names is None and tensor_regex is None:
        raise ValueError(f"{name} needs collection_names (such as [weights]) or tensor_regex")
