"""Rules about the learning rate: too high, too low, or too high for a pretrained backbone."""

from __future__ import annotations

import numpy as np

from dogbreed.debugger.findings import (
    Evidence,
    Outcome,
    Status,
    Suggestion,
    counted,
    insufficient,
    issue,
    not_applicable,
    ok,
)
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.rules.updates import nonzero_at_start, update_ratio
from dogbreed.debugger.series import Array, Series, TensorSeries


def typical_ratio(updates: TensorSeries, gradients: TensorSeries | None = None, tag: str = "") -> tuple[Array, int]:
    """Returns ((S,) median update ratio over weight tensors, number of tensors); biases and norms are skipped.

    With `tag`, only tensors that have it. A step without any update is NaN.
    """
    updates = nonzero_at_start(updates)
    updates = updates.columns(
        [
            i
            for i, name in enumerate(updates.names)
            if not updates.tagged(name, "bias", "norm") and (not tag or updates.tagged(name, tag))
        ]
    )
    result = np.full(len(updates.steps), np.nan)
    if updates.names:
        ratio = update_ratio(updates, gradients)
        known = np.isfinite(ratio).any(axis=1)
        result[known] = np.nanmedian(ratio[known], axis=1)
    return result, len(updates.names)


def _learning_rate(
    updates: TensorSeries,
    gradients: TensorSeries | None,
    settings: Settings | None,
    *,
    threshold: float,
    min_steps: int,
    is_high: bool,
) -> Outcome:
    ratio, tensors = typical_ratio(updates, gradients)
    finite = ratio[np.isfinite(ratio)]
    if not tensors:
        return not_applicable("no trainable weight")
    if len(finite) < min_steps:
        return insufficient(f"{counted(len(finite), 'recorded update')}, {min_steps} needed", datapoints=len(finite))
    typical = float(np.median(finite))
    details = {"steps": updates.steps[np.isfinite(ratio)], "ratio": finite}
    change = f"a step changes weights by {typical:.1e} of their size"
    if not (typical > threshold if is_high else typical < threshold):
        return ok(f"{change} (about 1e-3 is usual)", datapoints=len(finite), details=details)
    evidence = [
        Evidence("median update / weight of a step", "", int(step), float(value), threshold)
        for step, value in zip(updates.steps, ratio, strict=True)
        if (value > threshold if is_high else value < threshold)
    ]
    summary = f"the learning rate is too {'high' if is_high else 'low'}: {change}"
    suggestion = suggestions.learning_rate(settings, 0.1 if is_high else 10.0)
    return issue(summary, suggestion, evidence, datapoints=len(finite), details=details)


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
    """Detects a learning rate so high that each step rewrites a large part of the weights.

    Networks with norms learn well at surprisingly high rates from random weights, so large steps are no issue if
    the loss falls.

    Args:
        updates: Update statistics.
        gradients: Gradient statistics; updates without a gradient are skipped.
        settings: The run's settings; `lr`, for the suggestion.
        losses: Training loss by optimizer step.
        threshold: Median update ratio, over weight tensors and then over recorded steps, above which it fires.
        min_steps: Recorded steps needed.
        learned: The loss falls if its last quarter is below this share of its first quarter, by their medians.

    Statuses:
        issue: The ratio is above the threshold, and the loss does not fall.
        not_applicable: There is no trainable weight.
        insufficient_data: Fewer than `min_steps` recorded updates.

    Source: an addition to AWS's rules. About 1e-3 per step is the rule of thumb; 0.1 is two decades above it.
    """
    outcome = _learning_rate(updates, gradients, settings, threshold=threshold, min_steps=min_steps, is_high=True)
    if outcome.status is Status.ISSUE and losses is not None and _falls(losses, learned):
        return ok("the steps are large, and the loss falls", datapoints=outcome.datapoints)
    return outcome


def _falls(losses: Series, learned: float) -> bool:
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
    """Detects a learning rate so low that a thousand steps would not change the weights.

    Args:
        updates: Update statistics.
        gradients: Gradient statistics; updates without a gradient are skipped.
        settings: The run's settings; `lr`, for the suggestion.
        threshold: Median update ratio below which it fires.
        min_steps: Recorded steps needed.

    Statuses:
        issue: The ratio is below the threshold.
        not_applicable: There is no trainable weight.
        insufficient_data: Fewer than `min_steps` recorded updates.

    Source: an addition to AWS's rules. About 1e-3 per step is the rule of thumb; 1e-6 is three decades below it.
    """
    return _learning_rate(updates, gradients, settings, threshold=threshold, min_steps=min_steps, is_high=False)


@rule("HeadAgainstBackbone", group="training", priority=30)
def head_against_backbone(updates: TensorSeries, *, threshold: float = 3.0, min_steps: int = 3) -> Outcome:
    """Detects a pretrained backbone that changes faster than the new head, and forgets before the head has learned.

    Args:
        updates: Update statistics, with parameters tagged `head` and `pretrained`.
        threshold: Median update ratio of the backbone over that of the head above which it fires.
        min_steps: Recorded steps needed.

    Statuses:
        issue: The quotient is above the threshold.
        not_applicable: There is no head that trains together with a pretrained backbone.
        insufficient_data: Fewer than `min_steps` recorded steps with both.

    Source: an addition to AWS's rules.
    """
    backbone, backbone_tensors = typical_ratio(updates, tag="pretrained")
    head, head_tensors = typical_ratio(updates, tag="head")
    if not backbone_tensors or not head_tensors:
        return not_applicable("there is no head that trains together with a pretrained backbone")
    both = np.isfinite(backbone) & np.isfinite(head) & (head > 0)
    if both.sum() < min_steps:
        return insufficient(f"{counted(int(both.sum()), 'recorded step')} with both, {min_steps} needed")
    quotient = float(np.median(backbone[both] / head[both]))
    if quotient <= threshold:
        return ok(f"the backbone changes {quotient:.2g} times as fast as the head", datapoints=int(both.sum()))
    summary = f"the pretrained backbone changes {quotient:.1f} times as fast as the head"
    evidence = [Evidence("update ratio of the backbone over that of the head", value=quotient, threshold=threshold)]
    suggestion = Suggestion("train the head first", "finetune", "gradual")
    return issue(summary, suggestion, evidence, datapoints=int(both.sum()))
