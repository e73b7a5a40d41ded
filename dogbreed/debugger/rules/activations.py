"""Rules about activation layers: dead ReLUs, saturated tanh and sigmoid layers, poor initial weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, not_applicable, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.series import Array, NodeActivity, Series, TensorSeries


def _idle_percent(layers: Mapping[str, NodeActivity], threshold_inactivity: float) -> dict[str, float]:
    """Returns, by layer, the percent of nodes that are inside their range in less than `threshold_inactivity` %."""
    return {name: 100 * float(np.mean(item.inside_percent < threshold_inactivity)) for name, item in layers.items()}


def _idle_layers(
    layers: Mapping[str, NodeActivity], idle: Mapping[str, float], threshold_layer: float, text: str
) -> list[Evidence]:
    """Returns evidence for the layers with more than `threshold_layer` % idle nodes."""
    return [
        Evidence(f"{text} ({item.mode}, {item.num_samples} images)", name, None, idle[name], threshold_layer)
        for name, item in layers.items()
        if idle[name] > threshold_layer
    ]


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
    """Detects layers in which most ReLUs are dead, so that nothing before them learns.

    A node is a channel, counted over images and positions, in validation if that was recorded, else in training.

    Args:
        relu_activity: Layer name to how often each node was above 0.
        settings: The run's settings; `lr`, for the suggestion.
        threshold_inactivity: Percent of a node's outputs above 0 below which it is dead. AWS: 1.
        threshold_layer: Percent of dead nodes above which a layer fires. AWS: 50.
        min_samples: Images needed.

    Statuses:
        issue: A layer has too many dead nodes.
        not_applicable: The network has no ReLU.
        insufficient_data: Fewer than `min_samples` images were counted.

    Source: AWS, which does not define a node.
    """
    enough = {name: item for name, item in relu_activity.items() if item.num_samples >= min_samples}
    if not enough:
        most = max((item.num_samples for item in relu_activity.values()), default=0)
        return insufficient(f"activations of {most} images were counted, {min_samples} needed", datapoints=most)
    nodes = sum(len(item.inside_percent) for item in enough.values())
    dead = _idle_percent(enough, threshold_inactivity)
    evidence = _idle_layers(enough, dead, threshold_layer, "% dead nodes")
    details = {"dead_percent": dead}
    if evidence:
        summary = (
            f"more than {threshold_layer:g} % of the nodes are dead in {len(evidence)} of {len(enough)} ReLU layers"
        )
        suggestion = suggestions.learning_rate(settings, 0.1)
        return issue(summary, suggestion, evidence, datapoints=nodes, details=details)
    return ok(f"at most {max(dead.values()):.0f} % of a layer's ReLUs are dead", datapoints=nodes, details=details)


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
    threshold_inactivity: float = 1.0,
    threshold_layer: float = 50.0,
) -> Outcome:
    """Detects layers in which most tanh or sigmoid nodes are saturated, so that their gradient is zero.

    The working ranges are AWS's defaults, which the recorder counts with: -9.4999 to 9.4999 for tanh, -23 to 16.99999
    for sigmoid.

    Args:
        saturation: Layer name to how often each node's input was inside the working range.
        settings: The run's settings; `lr`, for the suggestion.
        threshold_inactivity: Percent of a node's inputs inside the range below which it is saturated. AWS: 1.
        threshold_layer: Percent of saturated nodes above which a layer fires. AWS: 50.

    Statuses:
        issue: A layer has too many saturated nodes.
        not_applicable: The network has neither tanh nor sigmoid.

    Source: AWS; a node is a channel of a 4-d input, a feature of a 2-d one.
    """
    nodes = sum(len(item.inside_percent) for item in saturation.values())
    saturated = _idle_percent(saturation, threshold_inactivity)
    evidence = _idle_layers(saturation, saturated, threshold_layer, "% saturated nodes")
    if evidence:
        summary = f"{len(evidence)} of {len(saturation)} tanh or sigmoid layers are saturated"
        return issue(summary, suggestions.learning_rate(settings, 0.1), evidence, datapoints=nodes)
    return ok("tanh and sigmoid layers work inside their range", datapoints=nodes)


@rule("PoorWeightInitialization", aws_name="PoorWeightInitialization", group="tensor", priority=8)
def poor_weight_initialization(
    activation_inputs: TensorSeries,
    gradients: TensorSeries | None = None,
    losses: Series | None = None,
    *,
    threshold: float = 10.0,
    distribution_range: float = 0.001,
    patience: int = 5,
    steps: int = 10,
) -> Outcome:
    """Detects initial weights that make signals grow or vanish from layer to layer.

    Only new layers are checked if the network starts from pretrained weights. A loss that does not fall is not
    enough, since the first losses of a healthy training are noisy.

    Args:
        activation_inputs: Statistics of the inputs of activation layers; `var` is compared over layers.
        gradients: Gradient statistics `p5` and `p95`.
        losses: Training loss by optimizer step.
        threshold: Largest over smallest variance of a layer above which it fires. AWS: 10.
        distribution_range: Range p95 - p5 of a gradient below which it is constant. AWS: 0.001.
        patience: Steps without a new lowest loss that count as not falling. AWS: 5.
        steps: First recorded steps that are checked. AWS: 10.

    Statuses:
        issue: The variances differ too much, or a gradient is constant while the loss does not fall.
        not_applicable: All layers are pretrained, or there are no activation layers.
        insufficient_data: Nothing finite was recorded in the first steps.

    Source: AWS; its text compares variances of weights, its parameters those of activation inputs.
    """
    names = activation_inputs.names
    layers = [i for i, name in enumerate(names) if not activation_inputs.tagged(name, "pretrained")]
    variance = activation_inputs.stat("var")[:steps, layers]
    spread = _spread(gradients, steps)
    if not variance.size and not spread.size:
        return not_applicable("the network starts from pretrained weights")
    if not np.isfinite(variance).any() and not np.isfinite(spread).any():
        return insufficient("nothing finite was recorded in the first steps")
    is_stuck = losses is not None and _is_stuck(losses.values[: max(steps, patience + 1)], patience)
    evidence = []
    ratio = _variance_ratio(variance)
    if ratio > threshold:
        evidence.append(Evidence("largest over smallest variance of activation inputs", "", 0, ratio, threshold))
    first = _first_spread(spread)
    low = float(np.nanmin(first)) if np.isfinite(first).any() else np.inf
    if low < distribution_range and is_stuck:
        evidence.append(Evidence("p95 - p5 of a gradient while the loss does not fall", "", 0, low, distribution_range))
    datapoints = int(np.isfinite(variance).sum() + np.isfinite(spread).sum())
    if evidence:
        loss = "the loss does not fall" if is_stuck else "but the loss falls"
        summary = f"poor initial weights ({evidence[0].text}: {evidence[0].value:.2g}); {loss}"
        return issue(summary, suggestions.PRETRAINED_WEIGHTS, evidence, datapoints=datapoints)
    return ok(f"the variance of activation inputs differs by {ratio:.2g} over layers", datapoints=datapoints)


def _first_spread(spread: Array) -> Array:
    """Returns the first step's p95 - p5 of each gradient; NaN if it is zero then and not later.

    A residual branch that ends in a norm with weight zero (`zero_init` of timm and torchvision) passes no gradient
    until that norm has changed.
    """
    if not len(spread):
        return spread
    wakes_up = (spread[0] == 0) & (np.nan_to_num(spread) > 0).any(axis=0)
    return np.where(wakes_up, np.nan, spread[0])


def _variance_ratio(variance: Array) -> float:
    """Returns the largest over the smallest variance of a layer, 1 with fewer than two layers.

    Takes the smaller one of the first step and the median over steps: updates can spread the variances later.
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
    """Returns (S, N) p95 - p5 of the gradients of new weights."""
    if gradients is None:
        return np.empty((0, 0))
    names = gradients.names
    columns = [i for i, name in enumerate(names) if not gradients.tagged(name, "bias", "pretrained", "norm")]
    return (gradients.stat("p95") - gradients.stat("p5"))[:steps, columns]


def _is_stuck(values: Array, patience: int) -> bool:
    """Returns whether `patience` losses in a row bring no new lowest one, or a loss is not finite."""
    best, waited = np.inf, 0
    for value in values:
        waited = 0 if value < best else waited + 1
        best = min(best, value)
        if waited >= patience or not np.isfinite(value):
            return True
    return False
