"""Rules about classes and predictions: imbalance and confusion."""

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
        verb = "is" if len(names) == 1 else "are"
        summary = f"{len(names)} of {int((true_totals > 0).sum())} classes {verb} confused, such as {names[0]}"
        suggestion = suggestions.longer_or_full(settings)
        return issue(summary, suggestion, evidence, datapoints=len(predictions.labels))
    accuracy = float(np.trace(matrix) / matrix.sum())
    return ok(f"no class is confused with another ({accuracy:.0%} right)", datapoints=len(predictions.labels))
