"""Rules about classes and predictions: imbalance, confusion, calibration, wrong labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence, Outcome, insufficient, issue, ok
from dogbreed.debugger.rules.base import rule
from dogbreed.debugger.series import Array, Predictions

Settings = Mapping[str, Any]


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Returns (C, C) counts, one row a true class, one column a predicted one."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes)


def wilson(successes: Array, trials: Array, z: float) -> tuple[Array, Array]:
    """Returns (lower, upper) of the Wilson score interval of a share; z=0 gives the share itself twice."""
    trials = np.maximum(trials, 1)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return centre - half, centre + half


def only_guesses(predictions: Predictions) -> str:
    """Returns why there is nothing to tell about a model that is no better than guessing, "" for one that is."""
    count, classes = len(predictions.labels), max(predictions.probabilities.shape[1], 1)
    right = float(np.sum(predictions.predicted == predictions.labels))
    low, _ = wilson(np.array([right]), np.array([float(count)]), 1.96)
    if low[0] > 1 / classes:
        return ""
    return f"the model is right in {right / max(count, 1):.0%}, guessing is in {1 / classes:.0%}"


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
    """Some classes have many times the images of others, or one class alone is mostly missed.

    Counted in the dataset, not in what a sampler makes of it; a class without images counts as infinitely rare
    (OURS). A class's error rate counts where it is seen often enough and the model as a whole is good: a model that
    gets everything wrong has another problem (OURS).

    Args:
        class_counts: Training images of each class.
        predictions: Labels and predictions of validation or test images.
        threshold_imbalance: Most over fewest images that is still right (DOC, CFG: 10).
        threshold_misprediction: Error rate of a class that is still right (DOC, CFG: 0.7).
        samples: Labels that it takes (DOC, CFG: 500).
        min_class_samples: Predictions that it takes to judge a class (OURS).

    Source: DOC 2.1; TST oracle 990 against 10 labels.
    """
    total = sum(class_counts.values())
    if total < samples:
        return insufficient(f"{total} labels; it takes {samples}", datapoints=total)
    most, fewest = max(class_counts, key=class_counts.__getitem__), min(class_counts, key=class_counts.__getitem__)
    count = class_counts[fewest]
    ratio = class_counts[most] / count if count else float("inf")
    evidence = []
    if ratio > threshold_imbalance:
        text = f"{most} has {class_counts[most]} training images, {fewest} has {count}"
        evidence.append(Evidence(text, fewest, None, ratio, threshold_imbalance))
    if predictions is not None:
        evidence += _missed_classes(predictions, threshold_misprediction, min_class_samples)
    if evidence:
        summary = f"{evidence[0].text} (ratio {ratio:.3g})"
        return issue(summary, "objective.metric=val/f1", evidence, datapoints=total)
    return ok(f"most over fewest images of a class: {ratio:.3g}", datapoints=total)


def _missed_classes(predictions: Predictions, threshold: float, min_samples: int) -> list[Evidence]:
    wrong = predictions.predicted != predictions.labels
    if not len(wrong) or wrong.mean() > threshold / 2:
        return []
    evidence = []
    for number in np.unique(predictions.labels):
        of_class = wrong[predictions.labels == number]
        if len(of_class) >= min_samples and of_class.mean() > threshold:
            name = predictions.class_name(int(number))
            evidence.append(Evidence("error rate of a class", name, None, float(of_class.mean()), threshold))
    return evidence


@rule("Confusion", aws_name="Confusion", group="data", priority=40, caused_by=("ClassImbalance",))
def confusion(
    predictions: Predictions,
    settings: Settings | None = None,
    *,
    category_no: int | None = None,
    min_diag: float = 0.9,
    max_off_diag: float = 0.1,
    confidence_z: float = 0.0,
) -> Outcome:
    """A class is often taken for another.

    Args:
        predictions: Labels and predictions of validation or test images.
        settings: The run's settings, for the suggestion.
        category_no: Number of classes; None: all there are (DOC, CFG).
        min_diag: Smallest share of a class's images that must be right (DOC, CFG: 0.9; `defaults.OURS` sets 0.5).
        max_off_diag: Largest share of a predicted class that may come from one other class (DOC, CFG: 0.1;
            `defaults.OURS` sets 0.5).
        confidence_z: Standard errors by which a share must be beyond its threshold (OURS; 0 is AWS's test, with
            few images a class one mistake fires; `defaults.OURS` sets 1.96).

    Source: DOC 2.1; the diagonal is a share of its row and the rest a share of its column (TST: the identity does not
    fire; DOC's formula, a share of the trace, would).
    """
    classes = category_no or predictions.probabilities.shape[1]
    guesses = only_guesses(predictions)
    if guesses:
        return insufficient(guesses, datapoints=len(predictions.labels))
    matrix = confusion_matrix(predictions.labels, predictions.predicted, classes).astype(np.float64)
    of_class, of_predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    seen = of_class > 0
    _, recall_high = wilson(np.diag(matrix), of_class, confidence_z)
    evidence = [
        Evidence(
            "share that is right", predictions.class_name(int(i)), None, float(matrix[i, i] / of_class[i]), min_diag
        )
        for i in np.flatnonzero(seen & (recall_high < min_diag))
    ]
    off = matrix * (1 - np.eye(classes))
    low, _ = wilson(off, np.broadcast_to(of_predicted, off.shape), confidence_z)
    pairs = np.argwhere((off > 0) & (low > max_off_diag))
    for true, guess in sorted(pairs, key=lambda pair: -off[pair[0], pair[1]]):
        text = f"share of predicted {predictions.class_name(int(guess))} that is really this class"
        share = float(off[true, guess] / of_predicted[guess])
        evidence.append(Evidence(text, predictions.class_name(int(true)), None, share, max_off_diag))
    if evidence:
        names = sorted({item.tensor for item in evidence})
        summary = f"{len(names)} of {int(seen.sum())} classes are confused, such as {names[0]}"
        return issue(summary, _learn_more(settings), evidence, datapoints=len(predictions.labels))
    accuracy = float(np.trace(matrix) / matrix.sum())
    return ok(f"no class stands out ({accuracy:.0%} right)", datapoints=len(predictions.labels))


def _learn_more(settings: Settings | None) -> str:
    """Returns the next larger thing to try: the whole network, and where that was trained already, twice the epochs."""
    known = settings or {}
    epochs = known.get("epochs")
    return "finetune=full" if known.get("finetune") != "full" else f"epochs={2 * epochs if epochs else 20}"


def reliability(predictions: Predictions, num_bins: int) -> dict[str, Array]:
    """Returns `confidence`, `accuracy` and `count` of each bin of equal width of the top probability (nan: empty)."""
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
    """The model is surer than it is right.

    One that is less sure than it is right, as in the first epochs of a training, is said to be and no issue.

    Args:
        predictions: Labels and probabilities of validation or test images.
        threshold: Expected calibration error above which it fires, 0..1.
        num_bins: Bins of equal width of the top probability.
        min_samples: Predictions that it takes; with fewer the error is mostly noise.

    Source: OURS; expected calibration error as in Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    count = len(predictions.labels)
    finite = np.isfinite(predictions.probabilities).all()
    if count < min_samples or not finite or only_guesses(predictions):
        few = f"{count} predictions; it takes {min_samples}" if count < min_samples else only_guesses(predictions)
        return insufficient(few if finite else "the model predicts NaN", datapoints=count)
    bins = reliability(predictions, num_bins)
    gap = np.nan_to_num(bins["confidence"] - bins["accuracy"])
    error = float(np.sum(np.abs(gap) * bins["count"]) / count)
    details = {"expected_calibration_error": error, **bins}
    over = float(np.sum(gap * bins["count"])) > 0
    if error > threshold and over:
        seen = Evidence("expected calibration error", "", None, error, threshold)
        summary = f"the model is surer than it is right, by {error:.0%} on average"
        return issue(summary, "label_smoothing=0.1", [seen], datapoints=count, details=details)
    text = f"confidence is {'above' if over else 'below'} accuracy, by {error:.1%} on average"
    return ok(text, datapoints=count, details=details)


def confident_errors(labels: NDArray[np.int64], probabilities: Array) -> tuple[NDArray[np.int64], Array]:
    """Returns (positions of images whose label is likely wrong, most likely first; their margin).

    Confident learning: the threshold of a class is the mean probability it gets on images labelled so. An image
    counts for the most probable class among those that reach their threshold, and where that is another than its
    label, the label is in doubt. The margin is that class's probability less the label's.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    sizes = np.bincount(labels, minlength=classes)
    thresholds = np.full(classes, np.inf)
    seen = sizes > 0
    thresholds[seen] = np.bincount(labels, weights=own, minlength=classes)[seen] / sizes[seen]
    confident = np.where(probabilities >= thresholds - 1e-12, probabilities, -1.0)
    best = np.argmax(confident, axis=1)
    margin = probabilities[np.arange(len(labels)), best] - own
    doubtful = np.flatnonzero((confident.max(axis=1) >= 0) & (best != labels) & (margin > 0))
    order = np.argsort(-margin[doubtful], kind="stable")
    return doubtful[order].astype(np.int64), margin[doubtful[order]]


@rule("LikelyLabelErrors", group="data", priority=44)
def likely_label_errors(
    predictions: Predictions, *, threshold: float = 0.05, min_accuracy: float = 0.85, min_samples: int = 100
) -> Outcome:
    """Labels of validation or test images are likely wrong.

    Args:
        predictions: Out-of-sample probabilities: the model did not train on these images.
        threshold: Share of labels in doubt above which it fires; those below are still shown.
        min_accuracy: Accuracy that the model must have to be believed.
        min_samples: Predictions that it takes.

    Source: OURS; the confident joint of Northcutt et al., Confident Learning, 2021, as in cleanlab.
    """
    count = len(predictions.labels)
    if count < min_samples:
        return insufficient(f"{count} predictions; it takes {min_samples}", datapoints=count)
    accuracy = float(np.mean(predictions.predicted == predictions.labels))
    if accuracy < min_accuracy or not np.isfinite(predictions.probabilities).all():
        return insufficient(f"the model is right in {accuracy:.0%}; it takes {min_accuracy:.0%} to doubt a label")
    doubtful, margin = confident_errors(predictions.labels, predictions.probabilities)
    share = len(doubtful) / count
    evidence = []
    for position, value in zip(doubtful, margin, strict=True):
        label, guess = (predictions.class_name(int(v[position])) for v in (predictions.labels, predictions.predicted))
        text = f"labelled {label}, looks like {guess} (difference in probability)"
        evidence.append(Evidence(text, predictions.key(int(position)), None, float(value)))
    details = {"share": share}
    if share > threshold:
        summary = f"{len(doubtful)} of {count} labels ({share:.1%}) are likely wrong"
        return issue(summary, "label_smoothing=0.1", evidence, datapoints=count, details=details)
    return ok(f"{len(doubtful)} of {count} labels are in doubt", datapoints=count, evidence=evidence, details=details)
