"""Rules about training and validation together: overfitting, too many epochs, the best epoch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, counted, insufficient, issue, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.series import Array, Series


def by_epoch(train: Series, val: Series) -> tuple[NDArray[np.int64], Array, Array]:
    """Returns (epochs, training loss, validation loss), each (E,), of the epochs in which both are finite."""
    epochs = np.intersect1d(train.finite().steps, val.finite().steps)
    train_loss = np.array([train.values[train.steps == epoch][-1] for epoch in epochs])
    val_loss = np.array([val.values[val.steps == epoch][-1] for epoch in epochs])
    return epochs, train_loss, val_loss


@rule(
    "Overfit",
    aws_name="Overfit",
    group="training",
    priority=25,
    caused_by=("ExplodingTensor", "LearningRateTooHigh"),
)
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
    """Detects a validation loss well above the training loss: the network memorizes its images.

    An epoch whose training loss is above that of the first epoch, or above ln(classes), does not count: a diverged
    network has memorized nothing.

    Args:
        train_losses: Mean training loss of each epoch. Augmentation, dropout and label smoothing raise it, so they can
            hide a gap but not create one.
        val_losses: Validation loss of each epoch.
        settings: The run's settings; `num_classes`, and `weight_decay` for the suggestion.
        start_step: First epoch that counts. AWS: 0.
        patience: Consecutive epochs. AWS: 1; reports use 3.
        ratio_threshold: (val - train) / train above which an epoch counts. AWS: 0.1; reports use 0.5.
        min_train_loss: Smallest denominator of that ratio.
        min_gap: Difference (val - train) above which an epoch counts, in nats; reports use 0.2, since at a loss of
            0.02 a ratio of 2 is harmless.

    Statuses:
        issue: The gap is too large for `patience` epochs in a row.
        insufficient_data: Fewer than `patience` epochs with both losses.

    Source: AWS; `min_train_loss`, `min_gap` and the test for divergence are additions.
    """
    epochs, train, val = by_epoch(train_losses, val_losses)
    keep = epochs >= start_step
    epochs, train, val = epochs[keep], train[keep], val[keep]
    if len(epochs) < patience:
        return insufficient(f"{counted(len(epochs), 'epoch')} with both losses, {patience} needed")
    guessing = math.log((settings or {}).get("num_classes") or math.inf)
    learning = train <= min(float(train[0]), guessing) if len(train) else np.empty(0, dtype=bool)
    ratio = (val - train) / np.maximum(train, min_train_loss)
    over = learning & (ratio > ratio_threshold) & (val - train > min_gap)
    evidence, waited = [], 0
    for epoch, value, is_over in zip(epochs, ratio, over, strict=True):
        waited = waited + 1 if is_over else 0
        if waited >= patience:
            text = "(val - train) / train loss, by epoch"
            evidence.append(Evidence(text, "val/loss", int(epoch), float(value), ratio_threshold))
    details = {"epochs": epochs, "gap": val - train}
    if evidence:
        summary = (
            f"overfitting since epoch {evidence[0].step}: validation loss {val[-1]:.3g}, training loss {train[-1]:.3g}"
        )
        suggestion = suggestions.weight_decay(settings)
        return issue(summary, suggestion, evidence, datapoints=len(epochs), details=details)
    text = f"validation loss minus training loss is {val[-1] - train[-1]:.3g}"
    return ok(text, datapoints=len(epochs), details=details)


def epochs_without_best(values: Array, delta: float) -> tuple[int, int]:
    """Returns (position of the last new best, number of values since then); a new best is lower by `delta`."""
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
    """Detects a training that continues although nothing improves.

    Args:
        train_losses: Mean training loss of each epoch.
        val_losses: Validation loss of each epoch.
        patience_train: Epochs without a new best training loss. AWS: 5.
        patience_validation: Epochs without a new best validation loss. AWS: 10.
        delta: A new best is lower by this many nats. AWS: 0.01.

    Statuses:
        issue: No new best validation loss for `patience_validation` epochs, or neither loss has a new best for
            `patience_train` epochs. A validation loss below `delta` cannot improve and does not count in the latter.
        insufficient_data: `patience_train` epochs or fewer.

    Source: AWS; it leaves open whether both losses or one must stand still, and counts saved steps instead of epochs.
    """
    epochs, train, val = by_epoch(train_losses, val_losses)
    if len(epochs) <= patience_train:
        return insufficient(f"{counted(len(epochs), 'epoch')} with both losses, {patience_train + 1} needed")
    best, waited = epochs_without_best(val, delta)
    _, waited_train = epochs_without_best(train, delta)
    stuck = waited >= patience_train and waited_train >= patience_train and val[best] > delta
    if waited >= patience_validation or stuck:
        limit = patience_validation if waited >= patience_validation else patience_train
        text = "epochs since the best validation loss"
        evidence = [Evidence(text, "val/loss", int(epochs[best]), waited, limit)]
        summary = f"epoch {epochs[best]} is the best, {counted(waited, 'epoch')} after it brought nothing"
        return issue(summary, suggestions.epochs(int(epochs[best]) + 1), evidence, datapoints=len(epochs))
    return ok(f"{counted(waited, 'epoch')} since the best validation loss", datapoints=len(epochs))


@rule("BestEpoch", group="training", priority=28, caused_by=("Overfit", "LearningRateTooHigh"))
def best_epoch(
    val_losses: Series,
    val_accuracy: Series | None = None,
    *,
    tolerance: float = 0.05,
    tolerance_loss: float = 0.2,
    min_epochs: int = 3,
) -> Outcome:
    """Detects a last epoch that is clearly worse than the best one.

    Accuracy is compared if it was recorded, else the loss.

    Args:
        val_losses: Validation loss of each epoch.
        val_accuracy: Validation accuracy of each epoch, 0 to 1.
        tolerance: Largest accuracy lost since the best epoch.
        tolerance_loss: Largest rise of the loss since the best epoch, as a share of it.
        min_epochs: Epochs needed.

    Statuses:
        issue: The last epoch lost more than the tolerance; use the best checkpoint.
        insufficient_data: Fewer than `min_epochs` epochs.

    Source: an addition to AWS's rules.
    """
    accuracy = None if val_accuracy is None else val_accuracy.finite()
    series = accuracy if accuracy is not None and len(accuracy) else val_losses.finite()
    if len(series) < min_epochs:
        return insufficient(f"{counted(len(series), 'epoch')} with a finite metric, {min_epochs} needed")
    if series is accuracy:
        best = int(np.argmax(series.values))
        lost, limit, name = float(series.values[best] - series.values[-1]), tolerance, "val/accuracy"
    else:
        best = int(np.argmin(series.values))
        lost = float(series.values[-1] / max(series.values[best], 1e-9) - 1)
        limit, name = tolerance_loss, "val/loss"
    if lost <= limit:
        return ok(f"the last epoch is as good as the best ({name})", datapoints=len(series))
    evidence = [Evidence("lost from the best epoch to the last", name, int(series.steps[best]), lost, limit)]
    summary = f"the last epoch is worse than epoch {series.steps[best]} by {lost:.2g} ({name})"
    return issue(summary, suggestions.epochs(int(series.steps[best]) + 1), evidence, datapoints=len(series))
