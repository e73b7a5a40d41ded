"""Rules about the training loss: it does not fall, it starts wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.series import Series

Settings = Mapping[str, Any]


@rule(
    "LossNotDecreasing",
    aws_name="LossNotDecreasing",
    group="training",
    priority=15,
    caused_by=("ExplodingTensor", "LearningRateTooHigh", "LearningRateTooLow", "VanishingGradient", "DeadRelu"),
)
def loss_not_decreasing(
    losses: Series,
    settings: Settings | None = None,
    *,
    num_steps: int = 10,
    diff_percent: float = 0.1,
    increase_threshold_percent: float = 5.0,
    against: str = "window",
) -> Outcome:
    """The training loss does not fall.

    `against="window"` is AWS's test: every `num_steps` steps or later, the loss is compared with the newest saved loss
    at least `num_steps` behind. A converged training and plain noise fire too. `against="start"` (OURS, the setting in
    `defaults.OURS`) compares the mean of the last quarter of the training with that of the first, and asks that it be
    lower by more than twice the standard error of the difference, so that noise is not taken for learning.

    Args:
        losses: Training loss by optimizer step.
        settings: The run's settings, for the suggestion.
        num_steps: Steps between the two losses; with `start`, a quarter must hold half as many (DOC, CFG: 10).
        diff_percent: Percent by which the loss must be lower at least (DOC, CFG: 0.1).
        increase_threshold_percent: Percent of rise that fires in any case (DOC, CFG: 5).
        against: `window` or `start`.

    Raises:
        ValueError: `against` is something else.

    Source: DOC 2.1; TST oracle [.3, .33, .31, .30, .28] at 0, 4, 8, 12, 16 with diff 0 fires at 12. A loss that is not
    a number counts as not lower (OURS).
    """
    if against not in ("window", "start"):
        raise ValueError(f"against={against!r} is neither window nor start")
    compare = _against_start if against == "start" else _against_window
    pairs, evidence = compare(losses, num_steps, diff_percent, increase_threshold_percent)
    if not pairs:
        return insufficient(
            f"{len(losses)} losses are too few to compare over {num_steps} steps", datapoints=len(losses)
        )
    if evidence:
        override = suggestions.learning_rate(settings, 10 if _too_slow(settings) else 0.1)
        return issue("the training loss does not fall", override, evidence, datapoints=pairs)
    return ok("the training loss falls", datapoints=pairs)


def _too_slow(settings: Settings | None) -> bool:
    lr = (settings or {}).get("lr")
    return isinstance(lr, (int, float)) and lr < 1e-4


def _judge(now: float, before: float, diff_percent: float, rise_percent: float) -> tuple[bool, float, float]:
    """Returns (whether `now` is not lower, percent by which it fell, percent it had to fall)."""
    if not math.isfinite(now) or not math.isfinite(before):
        return True, math.nan, diff_percent
    fell = 100 * (before - now) / max(abs(before), 1e-12)
    not_lower = fell < diff_percent if diff_percent > 0 else fell <= 0
    return not_lower or -fell > rise_percent, fell, diff_percent


def _against_window(losses: Series, num_steps: int, diff: float, rise: float) -> tuple[int, list[Evidence]]:
    pairs, evidence = 0, []
    last_evaluated = -math.inf
    for row, step in enumerate(losses.steps):
        behind = np.flatnonzero(losses.steps <= step - num_steps)
        if not len(behind) or step - last_evaluated < num_steps:
            continue
        pairs, last_evaluated = pairs + 1, int(step)
        bad, fell, needed = _judge(float(losses.values[row]), float(losses.values[behind[-1]]), diff, rise)
        if bad:
            text = f"% the loss fell since step {losses.steps[behind[-1]]}"
            evidence.append(Evidence(text, "loss", int(step), fell, needed))
    return pairs, evidence


def _against_start(losses: Series, num_steps: int, diff: float, rise: float) -> tuple[int, list[Evidence]]:
    quarter = len(losses) // 4
    if quarter < max(2, num_steps // 2):
        return 0, []
    first, last = losses.values[:quarter], losses.values[-quarter:]
    bad, fell, needed = _judge(float(last.mean()), float(first.mean()), diff, rise)
    if not bad:
        error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / quarter)
        bad = first.mean() - last.mean() <= 2 * error
    text = f"% the mean loss of the last {quarter} steps is below that of the first {quarter}"
    return 1, [Evidence(text, "loss", int(losses.steps[-1]), fell, needed)] if bad else []


@rule("InitialLoss", group="training", priority=9, caused_by=("PoorWeightInitialization",))
def initial_loss(losses: Series, settings: Settings, *, factor: float = 1.3, margin: float = 1.0) -> Outcome:
    """The first loss is far above ln(classes), the loss of a network that knows nothing.

    Args:
        losses: Training loss by optimizer step; the first one, before any update, is looked at.
        settings: The run's settings; `num_classes`.
        factor: How many times ln(classes) is still right ...
        margin: ... plus this.

    Source: OURS; a network that starts above has weights too large or labels that do not fit its classes.
    """
    classes = settings.get("num_classes")
    if not isinstance(classes, int) or classes < 2:
        return insufficient("the number of classes was not recorded")
    if not len(losses) or losses.steps[0] != 0:
        return insufficient("the loss of the first step was not recorded (a resumed training)")
    expected = math.log(classes)
    limit = factor * expected + margin
    first = float(losses.values[0])
    if not first <= limit:
        text = f"first loss; ln({classes}) = {expected:.3g}"
        summary = f"the first loss is {first:.3g}, that of guessing among {classes} classes is {expected:.3g}"
        override = suggestions.learning_rate(settings, 0.3) if settings.get("pretrained") else "model.weights=hub"
        return issue(summary, override, [Evidence(text, "loss", 0, first, limit)], datapoints=1)
    return ok(f"the first loss is {first:.3g}, ln({classes}) is {expected:.3g}", datapoints=1)
