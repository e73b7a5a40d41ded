"""Rules about classes and predictions: imbalance, confusion, calibration, wrong labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, Suggestion, counted, insufficient, issue, ok
from dogbreed.debugger.rules import suggestions
from dogbreed.debugger.rules.base import Settings, rule
from dogbreed.debugger.series import Array, Predictions


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Returns (C, C) counts; rows are true classes, columns predicted ones."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes)


def wilson(successes: Array, trials: Array, z: float) -> tuple[Array, Array]:
    """Returns (lower, upper) ends of the Wilson score interval of a share; with `z=0` both are the share itself."""
    trials = np.maximum(trials, 1)
    share = successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return center - half, center + half


def only_guesses(predictions: Predictions) -> str:
    """Returns why a model that is no better than guessing is not judged; "" for a better one."""
    count, classes = len(predictions.labels), max(predictions.probabilities.shape[1], 1)
    right = float(np.sum(predictions.predicted == predictions.labels))
    low, _ = wilson(np.array([right]), np.array([float(count)]), 1.96)
    if low[0] > 1 / classes:
        return ""
    return f"the model is no better than guessing: {right / max(count, 1):.0%} right, by chance {1 / classes:.0%}"


@rule("ClassImbalance", aws_name="ClassImbalance", group="data", priority=18)
def class_imbalance(
    class_counts: Mapping[str, int],
    predictions: Predictions | None = None,
    *,
    threshold_imbalance: float = 10.0,
    threshold_misprediction: float = 0.7,
    samples: int = 500,
    min_class_samples: int = 20,
) -> Outcome:
    """Detects classes with many times the images of others, and single classes that are mostly missed.

    Images are counted in the data set, before any sampler. A class without images is infinitely rare. The error rate
    of a class counts only if the model is good overall.

    Args:
        class_counts: Training images of each class.
        predictions: Labels and predictions of validation or test images.
        threshold_imbalance: Most over fewest images per class above which it fires. AWS: 10.
        threshold_misprediction: Error rate of a class above which it fires, 0 to 1. AWS: 0.7.
        samples: Labels needed. AWS: 500.
        min_class_samples: Predictions needed to judge a class.

    Statuses:
        issue: The classes are uneven, or a class is mostly missed.
        insufficient_data: Fewer than `samples` labels.

    Source: AWS.
    """
    total = sum(class_counts.values())
    if total < samples:
        return insufficient(f"{counted(total, 'label')}, {samples} needed", datapoints=total)
    most, fewest = max(class_counts, key=class_counts.__getitem__), min(class_counts, key=class_counts.__getitem__)
    count = class_counts[fewest]
    ratio = class_counts[most] / count if count else float("inf")
    missed = _missed_classes(predictions, threshold_misprediction, min_class_samples) if predictions else []
    if ratio > threshold_imbalance:
        text = f"{most} has {class_counts[most]} training images, {fewest} has {count}"
        evidence = [Evidence(f"ratio of images: {text}", fewest, None, ratio, threshold_imbalance), *missed]
        balance = Suggestion("show each class equally often", "data.balanced", True)
        suggestion = balance if count else Suggestion(f"add images of {fewest}, or remove the class")
        return issue(f"{text} (ratio {ratio:.3g})", suggestion, evidence, datapoints=total)
    if missed:
        summary = f"{missed[0].tensor} is missed in {missed[0].value:.0%} of its images"
        suggestion = Suggestion("select by F1, which counts every class alike", "objective.metric", "val/f1")
        return issue(summary, suggestion, missed, datapoints=total)
    return ok(f"the largest class has {ratio:.3g} times the images of the smallest", datapoints=total)


def _missed_classes(predictions: Predictions, threshold: float, min_samples: int) -> list[Evidence]:
    wrong = predictions.predicted != predictions.labels
    if not len(wrong) or wrong.mean() > threshold / 2:
        return []
    evidence = []
    for number in np.unique(predictions.labels):
        errors = wrong[predictions.labels == number]
        if len(errors) >= min_samples and errors.mean() > threshold:
            name = predictions.class_name(int(number))
            evidence.append(Evidence("error rate of a class", name, None, float(errors.mean()), threshold))
    return evidence


@rule("Confusion", aws_name="Confusion", group="data", priority=40, caused_by=("ClassImbalance",))
def confusion(
    predictions: Predictions,
    settings: Settings | None = None,
    *,
    min_diag: float = 0.9,
    max_off_diag: float = 0.1,
    confidence_z: float = 0.0,
) -> Outcome:
    """Detects classes that are often mistaken for another.

    Args:
        predictions: Labels and predictions of validation or test images.
        settings: The run's settings; `finetune` and `epochs`, for the suggestion.
        min_diag: Share of a class's images that are right, below which it fires. AWS: 0.9; reports use 0.5.
        max_off_diag: Share of a predicted class that really is one other class, above which it fires. AWS: 0.1;
            reports use 0.5.
        confidence_z: Standard errors by which a share must be beyond its threshold. With 0, AWS's test, a single
            mistake in a small class fires; reports use 1.96.

    Statuses:
        issue: A share is beyond its threshold.
        insufficient_data: The model is no better than guessing.

    Source: AWS. The diagonal is a share of its row and the rest a share of its column; by the documented formula, a
    share of the trace, a perfect model would fire.
    """
    guesses = only_guesses(predictions)
    if guesses:
        return insufficient(guesses, datapoints=len(predictions.labels))
    classes = predictions.probabilities.shape[1]
    matrix = confusion_matrix(predictions.labels, predictions.predicted, classes).astype(np.float64)
    true_totals, predicted_totals = matrix.sum(axis=1), matrix.sum(axis=0)
    _, recall_high = wilson(np.diag(matrix), true_totals, confidence_z)
    evidence = [
        Evidence("share that is right", predictions.class_name(int(i)), None, matrix[i, i] / true_totals[i], min_diag)
        for i in np.flatnonzero((true_totals > 0) & (recall_high < min_diag))
    ]
    off = matrix * (1 - np.eye(classes))
    low, _ = wilson(off, np.broadcast_to(predicted_totals, off.shape), confidence_z)
    pairs = np.argwhere((off > 0) & (low > max_off_diag))
    for true, guess in sorted(pairs, key=lambda pair: -off[pair[0], pair[1]]):
        text = f"share of predicted {predictions.class_name(int(guess))} that really is this class"
        share = float(off[true, guess] / predicted_totals[guess])
        evidence.append(Evidence(text, predictions.class_name(int(true)), None, share, max_off_diag))
    if evidence:
        names = sorted({item.tensor for item in evidence})
        summary = f"{len(names)} of {int((true_totals > 0).sum())} classes are confused, such as {names[0]}"
        suggestion = suggestions.longer_or_full(settings)
        return issue(summary, suggestion, evidence, datapoints=len(predictions.labels))
    accuracy = float(np.trace(matrix) / matrix.sum())
    return ok(f"no class is confused with another ({accuracy:.0%} right)", datapoints=len(predictions.labels))


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
