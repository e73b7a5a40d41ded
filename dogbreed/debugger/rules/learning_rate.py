"""Rules about the learning rate: too high, too low, another for the head than for the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, Status, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.rules.updates import driven, moving_weights, while_learning
from dogbreed.debugger.series import Array, Series, TensorSeries

Settings = Mapping[str, Any]


def typical_ratio(updates: TensorSeries, *tags: str, gradients: TensorSeries | None = None) -> tuple[Array, int]:
    """Returns ((S,) median update ratio over weight tensors, number of tensors), biases and norms left out.

    With `tags`, only tensors that have one of them; with `gradients`, only updates that had one.
    """
    columns = [
        i
        for i in moving_weights(updates)
        if not updates.tagged(updates.names[i], "bias", "norm")
        and (not tags or updates.tagged(updates.names[i], *tags))
    ]
    if not columns:
        return np.full(len(updates.steps), np.nan), 0
    ratio = updates.stat("abs_mean") / (updates.stat("weight_abs_mean") + 1e-9)
    ratio = np.where(while_learning(updates)[:, None] & driven(updates, gradients), ratio, np.nan)[:, columns]
    known = np.isfinite(ratio).any(axis=1)
    result = np.full(len(updates.steps), np.nan)
    result[known] = np.nanmedian(ratio[known], axis=1)
    return result, len(columns)


def _learning_rate(
    updates: TensorSeries,
    gradients: TensorSeries | None,
    settings: Settings | None,
    *,
    threshold: float,
    min_steps: int,
    high: bool,
) -> Outcome:
    ratio, tensors = typical_ratio(updates, gradients=gradients)
    finite = ratio[np.isfinite(ratio)]
    if not tensors:
        return not_applicable("no trainable weight")
    if len(finite) < min_steps:
        return insufficient(f"{len(finite)} recorded updates; it takes {min_steps}", datapoints=len(finite))
    typical = float(np.median(finite))
    details = {"steps": updates.steps[np.isfinite(ratio)], "ratio": finite}
    if typical > threshold if high else typical < threshold:
        word, factor = ("high", 0.1) if high else ("low", 10.0)
        evidence = [
            Evidence("median update / weight of a step", "", int(step), float(value), threshold)
            for step, value in zip(updates.steps, ratio, strict=True)
            if (value > threshold if high else value < threshold)
        ]
        summary = f"the learning rate is too {word}: a step changes weights by {typical:.1e} of their size"
        override = suggestions.learning_rate(settings, factor)
        return issue(summary, override, evidence, datapoints=len(finite), details=details)
    text = f"a step changes weights by {typical:.1e} of their size (about 1e-3 is usual)"
    return ok(text, datapoints=len(finite), details=details)


@rule("LearningRateTooHigh", group="training", priority=5)
def learning_rate_too_high(
    updates: TensorSeries,
    gradients: TensorSeries | None = None,
    settings: Settings | None = None,
    losses: Series | None = None,
    *,
    threshold: float = 0.1,
    min_steps: int = 3,
    learned: float = 0.6,
) -> Outcome:
    """The learning rate is too high: a step rewrites a good part of the weights, and the loss hardly falls.

    Networks with norms learn well at surprisingly high rates from random weights, so large steps alone are no issue.

    Args:
        updates: Update statistics.
        gradients: Gradient statistics; updates without a gradient are left out.
        settings: The run's settings, for the suggestion.
        threshold: Median update ratio (over weight tensors, then over recorded steps) above which it is too high.
        losses: Training loss by optimizer step.
        min_steps: Recorded steps that it takes.
        learned: Share of the first losses that the last ones must be below for the training to count as learning.

    Source: OURS; about 1e-3 a step is the rule of thumb, 0.1 is two decades above it.
    """
    outcome = _learning_rate(updates, gradients, settings, threshold=threshold, min_steps=min_steps, high=True)
    if outcome.status is Status.ISSUE and losses is not None and _falls(losses, learned):
        return ok("steps are large, and the loss falls well", datapoints=outcome.datapoints)
    return outcome


def _falls(losses: Series, learned: float) -> bool:
    """Whether the median of the last quarter of the losses is below `learned` of that of the first quarter."""
    quarter = max(1, len(losses.values) // 4)
    first, last = np.median(losses.values[:quarter]), np.median(losses.values[-quarter:])
    return bool(np.isfinite(last) and last < learned * first)


@rule("LearningRateTooLow", group="training", priority=6)
def learning_rate_too_low(
    updates: TensorSeries,
    gradients: TensorSeries | None = None,
    settings: Settings | None = None,
    *,
    threshold: float = 1e-6,
    min_steps: int = 3,
) -> Outcome:
    """The learning rate is too low: after a thousand steps the weights would still be the same.

    Args:
        updates: Update statistics.
        gradients: Gradient statistics; updates without a gradient are left out.
        settings: The run's settings, for the suggestion.
        threshold: Median update ratio below which it is too low.
        min_steps: Recorded steps that it takes.

    Source: OURS; about 1e-3 a step is the rule of thumb, 1e-6 is three decades below it.
    """
    return _learning_rate(updates, gradients, settings, threshold=threshold, min_steps=min_steps, high=False)


@rule("HeadAgainstBackbone", group="training", priority=30)
def head_against_backbone(
    updates: TensorSeries, settings: Settings | None = None, *, threshold: float = 3.0, min_steps: int = 3
) -> Outcome:
    """A pretrained backbone moves faster than the new head, so it forgets before the head has learned.

    Args:
        updates: Update statistics, parameters tagged `head`, `backbone`, `pretrained`.
        settings: The run's settings, for the suggestion.
        threshold: Median update ratio of the backbone over that of the head, above which it fires.
        min_steps: Recorded steps with both that it takes.

    Source: OURS.
    """
    backbone, of_backbone = typical_ratio(updates, "pretrained")
    head, of_head = typical_ratio(updates, "head")
    if not of_backbone or not of_head:
        return not_applicable("there is no head beside a pretrained backbone that trains with it")
    both = np.isfinite(backbone) & np.isfinite(head) & (head > 0)
    if both.sum() < min_steps:
        return insufficient(f"{int(both.sum())} recorded steps with both; it takes {min_steps}")
    quotient = float(np.median(backbone[both] / head[both]))
    if quotient > threshold:
        seen = Evidence("backbone's update ratio over the head's (median)", value=quotient, threshold=threshold)
        summary = f"the pretrained backbone moves {quotient:.1f} times as fast as the head"
        return issue(summary, "finetune=gradual", [seen], datapoints=int(both.sum()))
    return ok(f"the backbone moves {quotient:.2g} times as fast as the head", datapoints=int(both.sum()))
