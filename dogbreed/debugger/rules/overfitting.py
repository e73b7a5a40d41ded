"""Rules about training and validation together: overfitting, training too long, the best epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.series import Array, Series

Settings = Mapping[str, Any]


def by_epoch(train: Series, val: Series) -> tuple[NDArray[np.int64], Array, Array]:
    """Returns (epochs, training loss, validation loss) for the epochs in which both are finite."""
    epochs = np.intersect1d(train.finite().steps, val.finite().steps)
    a = np.array([train.values[train.steps == epoch][-1] for epoch in epochs])
    b = np.array([val.values[val.steps == epoch][-1] for epoch in epochs])
    return epochs, a, b


@rule("Overfit", aws_name="Overfit", group="training", priority=25)
def overfit(
    train_losses: Series,
    val_losses: Series,
    settings: Settings | None = None,
    *,
    start_step: int = 0,
    patience: int = 1,
    ratio_threshold: float = 0.1,
    min_train_loss: float = 1e-6,
    min_gap: float = 0.0,
) -> Outcome:
    """The validation loss is well above the training loss: the network learns images by heart.

    Args:
        train_losses: Mean training loss of each epoch. Augmentation, dropout and label smoothing push it up, so a
            gap can hide; it is never made up by them.
        val_losses: Validation loss of each epoch.
        settings: The run's settings, for the suggestion.
        start_step: First epoch that counts (DOC, CFG: 0).
        patience: Epochs in a row that it takes (DOC, CFG: 1; `defaults.OURS` sets 3).
        ratio_threshold: (val - train) / train above which an epoch counts (DOC, CFG: 0.1; `defaults.OURS` sets 0.5).
        min_train_loss: The ratio's denominator is at least this, so that a loss of 0 still counts (OURS).
        min_gap: Difference (val - train) above which an epoch counts, besides the ratio (OURS, 0: none;
            `defaults.OURS` sets 0.2: at a loss of 0.02 a ratio of 2 is nothing to worry about).

    Source: DOC 2.1.
    """
    epochs, train, val = by_epoch(train_losses, val_losses)
    keep = epochs >= start_step
    epochs, train, val = epochs[keep], train[keep], val[keep]
    if len(epochs) < patience:
        return insufficient(f"{len(epochs)} epochs with both losses; it takes {patience}", datapoints=len(epochs))
    ratio = (val - train) / np.maximum(train, min_train_loss)
    details = {"epochs": epochs, "gap": val - train}
    waited = 0
    evidence = []
    for epoch, value, gap in zip(epochs, ratio, val - train, strict=True):
        waited = waited + 1 if value > ratio_threshold and gap > min_gap else 0
        if waited >= patience:
            text = "(val - train) / train loss, by epoch"
            evidence.append(Evidence(text, "val/loss", int(epoch), float(value), ratio_threshold))
    if evidence:
        summary = (
            f"overfitting since epoch {evidence[0].step}: validation loss {val[-1]:.3g}, training loss {train[-1]:.3g}"
        )
        return issue(summary, suggestions.weight_decay(settings), evidence, datapoints=len(epochs), details=details)
    return ok(f"the gap between losses is {val[-1] - train[-1]:.3g}", datapoints=len(epochs), details=details)


def epochs_without_best(values: Array, delta: float) -> tuple[int, int]:
    """Returns (position of the last new best, number of values since); a best is lower by `delta` at least."""
    best, at = math.inf, 0
    for position, value in enumerate(values):
        if value <= best - delta:
            best, at = value, position
    return at, len(values) - 1 - at


@rule("Overtraining", aws_name="Overtraining", group="training", priority=27, caused_by=("Overfit",))
def overtraining(
    train_losses: Series,
    val_losses: Series,
    *,
    patience_train: int = 5,
    patience_validation: int = 10,
    delta: float = 0.01,
) -> Outcome:
    """The training goes on though nothing gets better.

    Fires when the validation loss has had no new best for `patience_validation` epochs, or when training loss
    (`patience_train`) and validation loss (the same number) both stand still (OURS; DOC leaves and/or open). A loss
    that is next to 0 cannot fall by `delta`: the training loss alone never fires.

    Args:
        train_losses: Mean training loss of each epoch.
        val_losses: Validation loss of each epoch.
        patience_train: Epochs without a new best training loss (DOC, CFG: 5).
        patience_validation: Epochs without a new best validation loss (DOC, CFG: 10).
        delta: A new best is lower by this at least (DOC: 0.01, older page 0.1).

    Source: DOC 2.1; the unit is epochs (AWS counts saved loss steps).
    """
    epochs, train, val = by_epoch(train_losses, val_losses)
    if len(epochs) <= patience_train:
        return insufficient(f"{len(epochs)} epochs with both losses; it takes {patience_train + 1}")
    best, waited = epochs_without_best(val, delta)
    _, waited_train = epochs_without_best(train, delta)
    text = "epochs since the best validation loss"
    stuck = waited >= patience_train and waited_train >= patience_train and val[best] > delta
    if waited >= patience_validation or stuck:
        limit = patience_validation if waited >= patience_validation else patience_train
        seen = [Evidence(text, "val/loss", int(epochs[best]), waited, limit)]
        summary = f"best epoch {epochs[best]}, {waited} epochs wasted after it"
        return issue(summary, suggestions.epochs(int(epochs[best]) + 1), seen, datapoints=len(epochs))
    return ok(f"{waited} epochs since the best validation loss", datapoints=len(epochs))


@rule("BestEpoch", group="training", priority=28, caused_by=("Overfit", "LearningRateTooHigh"))
def best_epoch(
    val_losses: Series,
    val_accuracy: Series | None = None,
    *,
    tolerance: float = 0.05,
    tolerance_loss: float = 0.2,
    min_epochs: int = 3,
) -> Outcome:
    """The last epoch is clearly worse than the best one: take the best checkpoint.

    By accuracy where it was recorded, else by loss.

    Args:
        val_losses: Validation loss of each epoch.
        val_accuracy: Validation accuracy of each epoch, 0..1.
        tolerance: Accuracy that the last epoch may lose.
        tolerance_loss: Share of the best loss that the last epoch may be above it, where there is no accuracy.
        min_epochs: Epochs that it takes.

    Source: OURS.
    """
    accuracy = None if val_accuracy is None else val_accuracy.finite()
    series = accuracy if accuracy is not None and len(accuracy) else val_losses.finite()
    if len(series) < min_epochs:
        return insufficient(f"{len(series)} epochs with a finite metric; it takes {min_epochs}", datapoints=len(series))
    if series is accuracy:
        best = int(np.argmax(series.values))
        lost, limit, name = float(series.values[best] - series.values[-1]), tolerance, "val/accuracy"
    else:
        best = int(np.argmin(series.values))
        lost = float(series.values[-1] / max(series.values[best], 1e-9) - 1)
        limit, name = tolerance_loss, "val/loss"
    if lost > limit:
        seen = Evidence("lost from the best epoch to the last", name, int(series.steps[best]), lost, limit)
        summary = f"the last epoch is worse than epoch {series.steps[best]} by {lost:.2g} ({name})"
        return issue(summary, suggestions.epochs(int(series.steps[best]) + 1), [seen], datapoints=len(series))
    return ok(f"the last epoch is as good as the best ({name})", datapoints=len(series))
