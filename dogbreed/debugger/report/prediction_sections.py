"""What the report shows of predictions: confusion, worst mistakes, classes, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.debugger import files
from dogbreed.debugger.report.charts import Axes, bar_chart, data_uri, heat_map
from dogbreed.debugger.report.section import Section
from dogbreed.debugger.rules.classes import confusion_matrix, reliability
from dogbreed.debugger.series import Array, Predictions
from dogbreed.labels import parse_class

_PAIRS = 15


def readable(name: str) -> str:
    """Returns `French bulldog` for the class `069.French_bulldog`."""
    return parse_class(name).name.replace("_", " ")


def matrix(predictions: Predictions) -> Section:
    """Confusion matrix as pixels (rows: truth), and the most confused pairs as a table."""
    classes = predictions.probabilities.shape[1]
    counts = confusion_matrix(predictions.labels, predictions.predicted, classes).astype(np.float64)
    names = [readable(predictions.class_name(i)) for i in range(classes)]
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = heat_map(np.where(share > 0, share, np.nan), names, names, cells="% of the class", low=0, high=100)
    off = counts * (1 - np.eye(classes))
    order = np.argsort(-off, axis=None)[:_PAIRS]
    pairs = [divmod(int(at), classes) for at in order if off.flat[at] > 0]
    rows = [[names[a], names[b], int(off[a, b]), f"{share[a, b]:.0f} %"] for a, b in pairs]
    table = {"head": ["is", "taken for", "images", "of its class"], "rows": rows, "title": "Most confused pairs"}
    seen = f"{len(predictions.labels)} {predictions.split} images"
    note = f"Of {seen}. Rows are true classes, columns predicted ones; point at a cell to read it."
    return Section(id="confusion", title="Confusion", note=note, matrix=image, table=table)


def gallery(predictions: Predictions, folder: Path) -> Section | None:
    """The mistakes the model was surest of, worst first."""
    rows = np.arange(len(predictions.labels))
    own = predictions.probabilities[rows, predictions.labels]
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    shown: list[dict[str, str]] = []
    for row in sorted(wrong, key=lambda i: own[i]):
        path = folder / files.DEBUG / "thumbs" / f"{predictions.split}-{predictions.indices[row]}.jpg"
        if path.is_file():
            guess = int(predictions.predicted[row])
            shown.append(
                {
                    "image": data_uri(path.read_bytes(), "image/jpeg"),
                    "truth": readable(predictions.class_name(int(predictions.labels[row]))),
                    "guess": readable(predictions.class_name(guess)),
                    "sure": f"{predictions.probabilities[row, guess]:.0%}",
                    "key": predictions.key(int(row)),
                }
            )
    if not shown:
        return None
    note = f"The {len(shown)} worst of {len(wrong)} mistakes on {len(rows)} {predictions.split} images."
    return Section(id="gallery", title="Worst mistakes", note=note, images=shown)


def per_class(predictions: Predictions, settings: Mapping[str, Any]) -> Section:
    """Precision, recall and F1 of each class, and what it is taken for most."""
    classes = predictions.probabilities.shape[1]
    counts = confusion_matrix(predictions.labels, predictions.predicted, classes).astype(np.float64)
    trained = settings.get("class_counts") or {}
    of_class, of_guess, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    rows = []
    for i in range(classes):
        name = predictions.class_name(i)
        recall, precision = (right[i] / total if total else np.nan for total in (of_class[i], of_guess[i]))
        f1 = 2 * right[i] / (of_class[i] + of_guess[i]) if of_class[i] + of_guess[i] else np.nan
        others = counts[i] * (np.arange(classes) != i)
        taken = readable(predictions.class_name(int(others.argmax()))) if others.any() else ""
        figures = ["" if np.isnan(v) else f"{v:.2f}" for v in (recall, precision, f1)]
        rows.append([name, trained.get(name, ""), int(of_class[i]), *figures, taken])
    head = ["class", "train", predictions.split, "recall", "precision", "F1", "mostly taken for"]
    return Section(id="classes", title="Classes", table={"head": head, "rows": rows, "sortable": True, "tall": True})


def calibration_section(predictions: Predictions) -> Section | None:
    """Reliability diagram: how often the model is right by how sure it is."""
    if not np.isfinite(predictions.probabilities).all():
        return None
    bins = reliability(predictions, 15)
    edges: Array = np.linspace(0, 1, 16, dtype=np.float64)
    accuracy = bar_chart(edges, bins["accuracy"], Axes("confidence", "right", y_range=(0, 1)), diagonal=True)
    count = bar_chart(edges, bins["count"], Axes("confidence", "images"))
    charts = [("How often it is right, by how sure it is", accuracy), ("How sure it is", count)]
    note = "A calibrated model follows the diagonal; bars below it are overconfident."
    return Section(id="calibration", title="Calibration", note=note, charts=charts)
