"""Rules about the probabilities of a model: calibration and labels that are likely wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, Suggestion, counted, insufficient, issue, ok
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.rules.classes import only_guesses
from dogbreed.debugger.series import Array, Predictions


def reliability(predictions: Predictions, num_bins: int) -> dict[str, Array]:
    """Returns `confidence`, `accuracy` and `count`, each (num_bins,), by the top probability; NaN for an empty bin."""
    top = predictions.probabilities.max(axis=1)
    right = predictions.predicted == predictions.labels
    bins = np.minimum((top * num_bins).astype(np.int64), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, weights=top, minlength=num_bins) / count
        accuracy = np.bincount(bins, weights=right.astype(np.float64), minlength=num_bins) / count
    return {"confidence": confidence, "accuracy": accuracy, "count": count}


@rule("Calibration", group="data", priority=42, caused_by=("Overfit", "TrainValOverlap"))
def calibration(
    predictions: Predictions, *, threshold: float = 0.15, num_bins: int = 15, min_samples: int = 100
) -> Outcome:
    """Detects an overconfident model: its probabilities are higher than its accuracy.

    Args:
        predictions: Labels and probabilities of validation or test images.
        threshold: Expected calibration error above which an overconfident model fires, 0 to 1.
        num_bins: Bins of equal width of the top probability.
        min_samples: Predictions needed; with fewer the error is mostly noise.

    Statuses:
        issue: The model is overconfident by more than the threshold.
        ok: It is calibrated, or underconfident, as in the first epochs of a training.
        insufficient_data: Too few predictions, NaN among them, or no better than guessing.

    Source: an addition to AWS's rules; expected calibration error of Guo et al., On Calibration of Modern Neural
    Networks, 2017.
    """
    count = len(predictions.labels)
    if count < min_samples:
        return insufficient(f"{counted(count, 'prediction')}, {min_samples} needed", datapoints=count)
    if not np.isfinite(predictions.probabilities).all():
        return insufficient("the model predicts NaN", datapoints=count)
    if guesses := only_guesses(predictions):
        return insufficient(guesses, datapoints=count)
    bins = reliability(predictions, num_bins)
    gap = np.nan_to_num(bins["confidence"] - bins["accuracy"])
    error = float(np.sum(np.abs(gap) * bins["count"]) / count)
    details = {"expected_calibration_error": error, **bins}
    if float(np.sum(gap * bins["count"])) <= 0:
        text = f"confidence is {error:.1%} below accuracy on average; only overconfidence is an issue"
        return ok(text, datapoints=count, details=details)
    text = f"confidence is {error:.1%} above accuracy on average"
    if error <= threshold:
        return ok(text, datapoints=count, details=details)
    evidence = [Evidence("expected calibration error", "", None, error, threshold)]
    suggestion = Suggestion("soften the targets", "label_smoothing", 0.1)
    return issue(f"the model is overconfident: {text}", suggestion, evidence, datapoints=count, details=details)


def confident_errors(
    labels: NDArray[np.int64], probabilities: Array
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Returns (positions of images whose label is likely wrong, their likely class, its margin), largest margin first.

    Confident learning: the threshold of a class is its mean probability on images with that label. An image counts
    for the most probable class among those that reach their threshold; if that is not its label, the label is in
    doubt. The margin is the probability of that class minus that of the label.

    Args:
        labels: (N,) classes.
        probabilities: (N, C) out-of-sample probabilities.
    """
    classes = probabilities.shape[1]
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    sizes = np.bincount(labels, minlength=classes)
    thresholds = np.full(classes, np.inf)
    seen = sizes > 0
    thresholds[seen] = np.bincount(labels, weights=own, minlength=classes)[seen] / sizes[seen]
    confident = np.where(probabilities >= thresholds - 1e-12, probabilities, -1.0)
    best = np.argmax(confident, axis=1)
    margin = probabilities[rows, best] - own
    doubtful = np.flatnonzero((confident.max(axis=1) >= 0) & (best != labels) & (margin > 0))
    order = doubtful[np.argsort(-margin[doubtful], kind="stable")]
    return order.astype(np.int64), best[order].astype(np.int64), margin[order]


@rule("LikelyLabelErrors", group="data", priority=44)
def likely_label_errors(
    predictions: Predictions, *, threshold: float = 0.05, min_accuracy: float = 0.85, min_samples: int = 100
) -> Outcome:
    """Detects labels of validation or test images that are likely wrong.

    Args:
        predictions: Out-of-sample probabilities: the model was not trained on these images.
        threshold: Share of labels in doubt above which it fires, 0 to 1; with fewer they are shown as evidence of ok.
        min_accuracy: Accuracy needed to trust the model more than a label.
        min_samples: Predictions needed.

    Statuses:
        issue: Too many labels are in doubt.
        insufficient_data: Too few predictions, or a model that is not good enough.

    Source: an addition to AWS's rules; the confident joint of Northcutt et al., Confident Learning, 2021, as in
    cleanlab.
    """
    count = len(predictions.labels)
    if count < min_samples:
        return insufficient(f"{counted(count, 'prediction')}, {min_samples} needed", datapoints=count)
    accuracy = float(np.mean(predictions.predicted == predictions.labels))
    if accuracy < min_accuracy or not np.isfinite(predictions.probabilities).all():
        return insufficient(f"the model is right in {accuracy:.0%} of the images, {min_accuracy:.0%} needed")
    doubtful, likely, margin = confident_errors(predictions.labels, predictions.probabilities)
    share = len(doubtful) / count
    evidence = [
        Evidence(
            f"margin of {predictions.class_name(int(guess))} over its label, "
            f"{predictions.class_name(int(predictions.labels[row]))}",
            predictions.key(int(row)), None, float(value),
        )
        for row, guess, value in zip(doubtful, likely, margin, strict=True)
    ]  # fmt: skip
    details = {"share": share}
    if share > threshold:
        summary = f"{len(doubtful)} of {count} labels ({share:.1%}) are likely wrong"
        return issue(summary, "check and correct these labels", evidence, datapoints=count, details=details)
    return ok(f"{len(doubtful)} of {count} labels are in doubt", datapoints=count, evidence=evidence, details=details)
