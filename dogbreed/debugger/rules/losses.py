"""Rules about the training loss: it does not fall, or it starts too high."""

from __future__ import annotations

import math

import numpy as np

from dogbreed.debugger.findings import Evidence, Outcome, Suggestion, insufficient, issue, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.series import Series


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
    min_fall_percent: float = 5.0,
    learned: float = 0.5,
    min_steps: int = 0,
) -> Outcome:
    """Detects a training loss that does not fall.

    `against="window"` is AWS's test: at least every `num_steps` steps the loss is compared with the newest one that
    is `num_steps` older. It also fires on a converged training and on noise. `against="start"`, the setting of
    reports, compares the mean loss of the last quarter of the training with that of the first and takes the noise of
    both means into account.

    Args:
        losses: Training loss by optimizer step.
        settings: The run's settings; `num_classes`, and `lr` for the suggestion.
        num_steps: Steps between the two losses; with `start`, a quarter needs half as many. AWS: 10.
        diff_percent: Smallest fall, percent. AWS: 0.1.
        increase_threshold_percent: Rise that always fires, percent. AWS: 5.
        against: `window` or `start`.
        min_fall_percent: With `start`, the rule fires if a fall of this many percent is ruled out by 3 standard errors.
        learned: With `start`, share of ln(classes), the loss of guessing, below which a flat loss is no issue: a head
            that was solved or a resumed training starts there.
        min_steps: Losses needed. A training that the rule may end needs 200 and an epoch: earlier, the loss of a slow
            but healthy training has hardly fallen.

    Statuses:
        issue: The loss does not fall, rises, or is not a number.
        insufficient_data: Too few losses, or too noisy ones.

    Raises:
        ValueError: `against` is neither.

    Source: AWS; `start` is an addition. A loss that is not a number counts as not lower.
    """
    if against not in ("window", "start"):
        raise ValueError(f"against={against!r} is neither window nor start")
    if len(losses) < min_steps:
        return insufficient(f"{len(losses)} losses, {min_steps} needed", datapoints=len(losses))
    if against == "start":
        guessing = math.log((settings or {}).get("num_classes") or 1)
        limits = (diff_percent, increase_threshold_percent, min_fall_percent)
        outcome = _against_start(losses, num_steps, limits, guessing, learned)
    else:
        outcome = _against_window(losses, num_steps, diff_percent, increase_threshold_percent)
    if isinstance(outcome, Outcome):
        return outcome
    pairs, evidence = outcome
    suggestion = suggestions.learning_rate(settings, 10 if _is_slow(settings) else 0.1)
    return issue("the training loss does not fall", suggestion, evidence, datapoints=pairs)


def _too_few(losses: Series, num_steps: int) -> Outcome:
    text = f"too few losses ({len(losses)}) to compare over {num_steps} steps"
    return insufficient(text, datapoints=len(losses))


def _is_slow(settings: Settings | None) -> bool:
    lr = (settings or {}).get("lr")
    return isinstance(lr, (int, float)) and lr < 1e-4


def _against_window(losses: Series, num_steps: int, diff: float, rise: float) -> Outcome | tuple[int, list[Evidence]]:
    """Returns ok or insufficient, or (number of comparisons, evidence of those without a fall)."""
    pairs, evidence = 0, []
    last_evaluated = -math.inf
    for row, step in enumerate(losses.steps):
        older = np.flatnonzero(losses.steps <= step - num_steps)
        if not len(older) or step - last_evaluated < num_steps:
            continue
        pairs, last_evaluated = pairs + 1, int(step)
        now, before = float(losses.values[row]), float(losses.values[older[-1]])
        fall = 100 * (before - now) / max(abs(before), 1e-12)
        is_lower = fall >= diff if diff > 0 else fall > 0
        if not is_lower or not math.isfinite(fall) or -fall > rise:
            text = f"% by which the loss fell since step {losses.steps[older[-1]]}"
            evidence.append(Evidence(text, "loss", int(step), fall, diff))
    if not pairs:
        return _too_few(losses, num_steps)
    return (pairs, evidence) if evidence else ok("the training loss falls", datapoints=pairs)


def _against_start(
    losses: Series, num_steps: int, limits: tuple[float, float, float], guessing: float, learned: float
) -> Outcome | tuple[int, list[Evidence]]:
    """Returns the same for the means of the last and the first quarter; `guessing` is ln(classes), 0 if unknown."""
    quarter = len(losses) // 4
    if quarter < max(2, num_steps // 2):
        return _too_few(losses, num_steps)
    diff, rise, min_fall = limits
    first, last = losses.values[:quarter], losses.values[-quarter:]
    start, end = float(first.mean()), float(last.mean())
    percent = 100 / max(abs(start), 1e-12)
    fall = percent * (start - end)
    error = percent * math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / quarter)
    mean = f"the mean loss of the last {quarter} steps"
    if not math.isfinite(start) or not math.isfinite(end):
        text, value, limit = mean, end, start
    elif -fall > rise and -fall > 2 * error:
        text, value, limit = f"% by which {mean} rose", -fall, rise
    elif fall > 2 * error and fall >= diff:
        return ok("the training loss falls", datapoints=1)
    elif start < learned * guessing:
        return ok("the training loss is low from the start and does not rise", datapoints=1)
    elif fall + 3 * error < min_fall:
        text, value, limit = f"% by which {mean} fell at most, noise included", fall + 3 * error, min_fall
    elif guessing and end > 2 * guessing:
        text, value, limit = f"{mean}, against twice that of guessing", end, 2 * guessing
    else:
        text = f"the loss is too noisy: it fell by {fall:.2g} % ± {2 * error:.2g} %"
        return insufficient(text, datapoints=len(losses))
    return 1, [Evidence(text, "loss", int(losses.steps[-1]), value, limit)]


@rule("InitialLoss", group="training", priority=9, caused_by=("PoorWeightInitialization",))
def initial_loss(losses: Series, settings: Settings, *, factor: float = 1.3, margin: float = 1.0) -> Outcome:
    """Detects a first loss far above ln(classes), the loss of guessing.

    Weights that are too large, or labels that do not fit the classes, start there.

    Args:
        losses: Training loss by optimizer step; the first one, before any update, is checked.
        settings: The run's settings; `num_classes`.
        factor: The limit is this times ln(classes), plus `margin`.
        margin: Nats added to the limit.

    Statuses:
        issue: The first loss is above the limit or not a number.
        insufficient_data: The first step or the number of classes was not recorded, as in a resumed training.

    Source: an addition to AWS's rules.
    """
    classes = settings.get("num_classes")
    if not isinstance(classes, int) or classes < 2:
        return insufficient("the number of classes was not recorded")
    if not len(losses) or losses.steps[0] != 0:
        return insufficient("the loss of the first step was not recorded (a resumed training)")
    expected = math.log(classes)
    limit = factor * expected + margin
    first = float(losses.values[0])
    if first <= limit:
        return ok(f"the first loss is {first:.3g}, that of guessing is {expected:.3g}", datapoints=1)
    summary = f"the first loss is {first:.3g}; guessing among {classes} classes gives {expected:.3g}"
    check = Suggestion("check that the labels match the classes and that the new head starts small")
    suggestion = check if settings.get("pretrained") else suggestions.PRETRAINED_WEIGHTS
    evidence = [Evidence(f"first loss; ln({classes}) = {expected:.3g}", "loss", 0, first, limit)]
    return issue(summary, suggestion, evidence, datapoints=1)
