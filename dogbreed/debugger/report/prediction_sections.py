"""Sections of the report about predictions: confusion, worst mistakes, classes, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger import files
from dogbreed.debugger.report.charts import bar_chart, data_uri
from dogbreed.debugger.report.section import Matrix, Section
from dogbreed.debugger.rules.classes import confusion_matrix
from dogbreed.debugger.rules.confidence import reliability
from dogbreed.debugger.series import Array, Predictions
from dogbreed.labels import parse_class

_PAIRS, _MATRIX = 15, 20


def readable(name: str) -> str:
    """Returns `French bulldog` for the class `069.French_bulldog`."""
    return parse_class(name).name.replace("_", " ")


def confusion(predictions: Predictions) -> Section:
    """Confusion matrix of the classes with the most mistakes, and the most confused pairs."""
    classes = predictions.probabilities.shape[1]
    counts = confusion_matrix(predictions.labels, predictions.predicted, classes).astype(np.int64)
    names = [readable(predictions.class_name(i)) for i in range(classes)]
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = counts * (1 - np.eye(classes, dtype=np.int64))
    shown: NDArray[np.int64] = np.arange(classes)
    if classes > _MATRIX:
        shown = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:_MATRIX]
    cells = [[(int(counts[i, j]), float(share[i, j])) for j in shown] for i in shown]
    columns = [names[i] for i in shown]
    note = f"{len(predictions.labels)} {predictions.split} images. Rows are true classes, columns predicted ones."
    if classes > _MATRIX:
        note += f" These are the {_MATRIX} of {classes} classes with the most mistakes; the last column is all others."
        rest = np.setdiff1d(np.arange(classes), shown)
        for row, i in zip(cells, shown, strict=True):
            row.append((int(counts[i, rest].sum()), float(share[i, rest].sum())))
        columns.append("other classes")
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(at), classes) for at in order if wrong.flat[at] > 0]
    rows = [[names[a], names[b], int(wrong[a, b]), f"{share[a, b]:.0f} %"] for a, b in pairs]
    head = ["true class", "predicted as", "images", "of its class"]
    table = {"head": head, "rows": rows, "title": "Most confused pairs"} if rows else None
    matrix = Matrix([names[i] for i in shown], columns, cells)
    return Section(id="confusion", title="Confusion", note=note, matrix=matrix, table=table)


def gallery(predictions: Predictions, folder: Path) -> Section | None:
    """Mistakes with the highest confidence, worst first."""
    rows = np.arange(len(predictions.labels))
    own_probability = predictions.probabilities[rows, predictions.labels]
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    shown: list[dict[str, str]] = []
    for row in sorted(wrong, key=lambda i: own_probability[i]):
        path = folder / files.DEBUG / "thumbs" / f"{predictions.split}-{predictions.indices[row]}.jpg"
        if path.is_file():
            predicted = int(predictions.predicted[row])
            shown.append(
                {
                    "image": data_uri(path.read_bytes(), "image/jpeg"),
                    "truth": readable(predictions.class_name(int(predictions.labels[row]))),
                    "predicted": readable(predictions.class_name(predicted)),
                    "confidence": f"{predictions.probabilities[row, predicted]:.0%}",
                    "key": predictions.key(int(row)),
                }
            )
    if not shown:
        return None
    note = f"The {len(shown)} worst of {len(wrong)} mistakes on {len(rows)} {predictions.split} images."
    return Section(id="gallery", title="Worst mistakes", note=note, images=shown)


def per_class(predictions: Predictions, settings: Mapping[str, Any]) -> Section:
    """Precision, recall and F1 of each class, and what it is most often predicted as."""
    classes = predictions.probabilities.shape[1]
    counts = confusion_matrix(predictions.labels, predictions.predicted, classes).astype(np.float64)
    trained = settings.get("class_counts") or {}
    class_total, predicted_total, correct = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    rows = []
    for i in range(classes):
        name = predictions.class_name(i)
        recall, precision = (correct[i] / total if total else np.nan for total in (class_total[i], predicted_total[i]))
        f1 = 2 * correct[i] / (class_total[i] + predicted_total[i]) if class_total[i] + predicted_total[i] else np.nan
        others = counts[i] * (np.arange(classes) != i)
        confused_with = readable(predictions.class_name(int(others.argmax()))) if others.any() else ""
        figures = ["" if np.isnan(v) else f"{v:.2f}" for v in (recall, precision, f1)]
        rows.append([name, trained.get(name, ""), int(class_total[i]), *figures, confused_with])
    head = ["class", "train", predictions.split, "recall", "precision", "F1", "most often predicted as"]
    return Section(id="classes", title="Classes", table={"head": head, "rows": rows, "sortable": True, "tall": True})


def calibration_section(predictions: Predictions) -> Section | None:
    """Reliability diagram: accuracy by confidence."""
    if not np.isfinite(predictions.probabilities).all():
        return None
    bins = reliability(predictions, 15)
    edges: Array = np.linspace(0, 1, 16, dtype=np.float64)
    accuracy = bar_chart(edges, bins["accuracy"], "confidence", "accuracy", diagonal=True)
    count = bar_chart(edges, bins["count"], "confidence", "images")
    charts = [("Accuracy by confidence", accuracy), ("Images by confidence", count)]
    note = "A calibrated model follows the diagonal; bars below it are overconfident."
    return Section(id="calibration", title="Calibration", note=note, charts=charts)
