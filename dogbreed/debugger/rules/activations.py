"""Rules about activation layers: dead ReLUs, saturated tanh and sigmoid, and bad starting weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.series import Array, NodeActivity, Series, TensorSeries

Settings = Mapping[str, Any]


def _lazy_layers(
    layers: Mapping[str, NodeActivity], threshold_inactivity: float, threshold_layer: float, text: str
) -> list[Evidence]:
    """Returns evidence for layers with more than `threshold_layer` % of their nodes below `threshold_inactivity` %."""
    evidence = []
    for name, activity in layers.items():
        idle = 100 * float(np.mean(activity.inside_percent < threshold_inactivity))
        if idle > threshold_layer:
            seen = f"{text} ({activity.mode}, {activity.num_samples} images)"
            evidence.append(Evidence(seen, name, None, idle, threshold_layer))
    return evidence


def _ratings(layers: Mapping[str, NodeActivity], threshold_inactivity: float) -> dict[str, float]:
    return {name: 100 * float(np.mean(item.inside_percent < threshold_inactivity)) for name, item in layers.items()}


@rule(
    "DeadRelu",
    aws_name="DeadRelu",
    group="tensor",
    priority=10,
    caused_by=("PoorWeightInitialization", "LearningRateTooHigh", "ExplodingTensor"),
)
def dead_relu(
    relu_activity: Mapping[str, NodeActivity],
    settings: Settings | None = None,
    *,
    threshold_inactivity: float = 1.0,
    threshold_layer: float = 50.0,
    min_samples: int = 200,
) -> Outcome:
    """Most ReLUs of a layer never fire, so nothing behind them learns.

    A node is a channel, counted over images and positions (OURS; DOC leaves the unit open), in validation where
    that was recorded, else in training.

    Args:
        relu_activity: Layer name to how often each node was above 0.
        settings: The run's settings, for the suggestion.
        threshold_inactivity: Percent of its outputs that a living node has above 0 at least (DOC, CFG: 1).
        threshold_layer: Percent of dead nodes above which the layer fires (DOC, CFG: 50).
        min_samples: Images that it takes (OURS: 200).

    Source: DOC 2.1.
    """
    enough = {name: item for name, item in relu_activity.items() if item.num_samples >= min_samples}
    if not enough:
        most = max((item.num_samples for item in relu_activity.values()), default=0)
        return insufficient(f"activations of {most} images were counted; it takes {min_samples}", datapoints=most)
    nodes = sum(len(item.inside_percent) for item in enough.values())
    evidence = _lazy_layers(enough, threshold_inactivity, threshold_layer, "% dead nodes")
    details = {"dead_percent": _ratings(enough, threshold_inactivity)}
    if evidence:
        summary = (
            f"in {len(evidence)} of {len(enough)} ReLU layers more than {threshold_layer:g} % of the nodes are dead"
        )
        return issue(summary, suggestions.learning_rate(settings, 0.1), evidence, datapoints=nodes, details=details)
    worst = max(details["dead_percent"].values())
    return ok(f"at most {worst:.0f} % of a layer's ReLUs are dead", datapoints=nodes, details=details)


@rule(
    "SaturatedActivation",
    aws_name="SaturatedActivation",
    group="tensor",
    priority=11,
    caused_by=("PoorWeightInitialization", "LearningRateTooHigh", "ExplodingTensor"),
)
def saturated_activation(
    saturation: Mapping[str, NodeActivity],
    settings: Settings | None = None,
    *,
    threshold_tanh_min: float = -9.4999,
    threshold_tanh_max: float = 9.4999,
    threshold_sigmoid_min: float = -23.0,
    threshold_sigmoid_max: float = 16.99999,
    threshold_inactivity: float = 1.0,
    threshold_layer: float = 50.0,
) -> Outcome:
    """Most tanh or sigmoid nodes of a layer are so far out that their gradient is zero.

    Args:
        saturation: Layer name to how often each node's input was inside the working range.
        settings: The run's settings, for the suggestion.
        threshold_tanh_min: Lower end of tanh's working range (DOC, CFG).
        threshold_tanh_max: Upper end (DOC, CFG).
        threshold_sigmoid_min: Lower end of the sigmoid's working range (DOC, CFG).
        threshold_sigmoid_max: Upper end (DOC, CFG).
        threshold_inactivity: Percent of its inputs that a node has inside at least (DOC, CFG: 1).
        threshold_layer: Percent of saturated nodes above which the layer fires (DOC, CFG: 50).

    Source: DOC 2.1; node = channel of a 4-d input, feature of a 2-d one (OURS).
    """
    ranges = {
        "tanh": (threshold_tanh_min, threshold_tanh_max),
        "sigmoid": (threshold_sigmoid_min, threshold_sigmoid_max),
    }
    counted = {name: item for name, item in saturation.items() if ranges[item.kind] == (item.low, item.high)}
    if not counted:
        return insufficient("the nodes were counted with other thresholds than the rule's; record the run with these")
    nodes = sum(len(item.inside_percent) for item in counted.values())
    evidence = _lazy_layers(counted, threshold_inactivity, threshold_layer, "% saturated nodes")
    if evidence:
        summary = f"{len(evidence)} of {len(counted)} tanh or sigmoid layers are saturated"
        return issue(summary, suggestions.learning_rate(settings, 0.1), evidence, datapoints=nodes)
    return ok("tanh and sigmoid layers work inside their range", datapoints=nodes)


@rule("PoorWeightInitialization", aws_name="PoorWeightInitialization", group="tensor", priority=8)
def poor_weight_initialization(
    activation_inputs: TensorSeries,
    gradients: TensorSeries | None = None,
    losses: Series | None = None,
    settings: Settings | None = None,
    *,
    threshold: float = 10.0,
    distribution_range: float = 0.001,
    patience: int = 5,
    steps: int = 10,
) -> Outcome:
    """The starting weights make signals grow or die from layer to layer.

    Fires when the inputs of the activation layers differ in variance by more than `threshold`, or when a gradient is
    all but constant while the loss does not fall. A loss that does not fall is no cause by itself (OURS: the first
    ten losses of a healthy training are noisy), it only tells how grave it is. Where the network starts from
    pretrained weights only its new layers are looked at (OURS).

    Args:
        activation_inputs: Statistics of what goes into activation layers; `var` is compared over layers.
        gradients: Gradient statistics `p5` and `p95`.
        losses: Training loss by optimizer step.
        settings: The run's settings, for the suggestion.
        threshold: Largest over smallest variance that is still right (DOC, CFG: 10).
        distribution_range: Smallest p95 - p5 of a gradient that is still right (DOC, CFG: 0.001).
        patience: Steps without a lower loss that count as not falling (DOC, CFG: 5).
        steps: First recorded steps that are looked at (DOC, CFG: 10).

    Source: DOC 2.1 (its text says variance of weights, its parameters describe activation inputs).
    """
    layers = [i for i, name in enumerate(activation_inputs.names) if not activation_inputs.tagged(name, "pretrained")]
    variance = activation_inputs.stat("var")[:steps, layers]
    spread = _spread(gradients, steps)
    if not variance.size and not spread.size:
        return not_applicable("the network starts from pretrained weights")
    if not np.isfinite(variance).any() and not np.isfinite(spread).any():
        return insufficient("nothing finite was recorded in the first steps")
    stuck = losses is not None and _not_falling(losses.values[: max(steps, patience + 1)], patience)
    evidence = []
    ratio = _variance_ratio(variance)
    if ratio > threshold:
        evidence.append(Evidence("largest over smallest variance of activation inputs", "", 0, ratio, threshold))
    first = _first_spread(spread)
    low = float(np.nanmin(first)) if np.isfinite(first).any() else np.inf
    if low < distribution_range and stuck:
        evidence.append(Evidence("p95 - p5 of a gradient while the loss does not fall", "", 0, low, distribution_range))
    datapoints = int(np.isfinite(variance).sum() + np.isfinite(spread).sum())
    if evidence:
        grave = "and the loss does not fall" if stuck else "though the loss falls"
        summary = f"poor starting weights ({evidence[0].text}: {evidence[0].value:.2g}), {grave}"
        return issue(summary, "model.weights=hub", evidence, datapoints=datapoints)
    return ok(f"variance of activation inputs differs by {ratio:.2g} over layers", datapoints=datapoints)


def _first_spread(spread: Array) -> Array:
    """Returns the first step's p95 - p5 of each gradient; NaN for one that is zero then and no longer zero later.

    A residual branch that ends in a norm with weight zero (timm's and torchvision's `zero_init`) passes no gradient
    until that norm has moved, which is meant so.
    """
    if not len(spread):
        return spread
    wakes_up = (spread[0] == 0) & (np.nan_to_num(spread) > 0).any(axis=0)
    return np.where(wakes_up, np.nan, spread[0])


def _variance_ratio(variance: Array) -> float:
    """Returns the largest over the smallest variance of a layer, 1 with under two layers.

    Of the first step and the median over steps the smaller one: what the first updates do is not the starting weights'.
    """
    if variance.ndim != 2 or variance.shape[1] < 2:
        return 1.0
    rows = variance[np.isfinite(variance).all(axis=1)]
    if not len(rows):
        return 1.0
    smallest = rows.min(axis=1)
    ratios = np.divide(rows.max(axis=1), smallest, out=np.full(len(rows), np.inf), where=smallest > 0)
    return float(min(ratios[0], np.median(ratios)))


def _spread(gradients: TensorSeries | None, steps: int) -> Array:
    if gradients is None:
        return np.empty((0, 0))
    columns = [
        i
        for i, name in enumerate(gradients.names)
        if not gradients.tagged(name, "bias", "frozen", "pretrained", "norm")
    ]
    return (gradients.stat("p95") - gradients.stat("p5"))[:steps, columns]


def _not_falling(values: Array, patience: int) -> bool:
    """Returns whether some `patience` losses in a row bring no new lowest one (or one that is not finite)."""
    best, waited = np.inf, 0
    for value in values:
        waited = 0 if value < best else waited + 1
        best = min(best, value)
        if waited >= patience or not np.isfinite(value):
            return True
    return False
