"""The CSV file of a folder's predictions.

It is also the checkpoint of the command: images with a row are not sent again, so an interrupted run can be resumed
with the same command.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from dogbreed.errors import UserError
from dogbreed.labels import parse_class
from launch.spec.prediction import Prediction

COLUMNS = ("key", "label", "class_name", "confidence", "top_k", "reason", "model")


def open_csv(path: Path, model: str) -> tuple[TextIO, set[str]]:
    """Returns the CSV file of `model`, opened for appending, and the URIs that it has rows for.

    An incomplete last row is removed.

    Raises:
        UserError: the file is of another kind or of another model, which leaves it unchanged, or cannot be written.
    """
    done: set[str] = set()
    try:
        if path.exists() and path.stat().st_size and not _has_partial_header(path):
            for row in read_csv(path):
                if row["model"] != model:
                    raise UserError(f"{path} is of model {row['model']}: remove it, or give output=OTHER.csv")
                done.add(row["key"])
        _truncate_to_complete_lines(path)
        file = path.open("a", newline="", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"output={path} cannot be written: {error.strerror}") from None
    if not path.stat().st_size:
        csv.writer(file).writerow(COLUMNS)
    return file, done


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """Yields the complete rows of a CSV file of predictions.

    Raises:
        UserError: it is another kind of file.
    """
    with path.open(newline="\n", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictReader(line for line in file if line.endswith("\n"))
        try:
            is_ours = tuple(rows.fieldnames or ()) == COLUMNS
        except csv.Error:  # a binary file
            is_ours = False
        if not is_ours:
            raise UserError(f"{path} is not a file of predictions: remove it, or give output=OTHER.csv")
        yield from rows


def csv_row(uri: str, outcome: Prediction | str, model: str) -> list[Any]:
    """Returns the row of an image: its prediction, or the reason why it has none."""
    if isinstance(outcome, str):
        return [uri, "", "", "", "", outcome, model]
    top = json.dumps([[score.label, score.confidence] for score in outcome.top], ensure_ascii=False)
    label, class_name, confidence = outcome.best
    probability = "" if confidence is None else f"{confidence:.6f}"
    return [uri, label, class_name, probability, top if outcome.top else "", "", model]


def accuracy(rows: Sequence[dict[str, str]]) -> tuple[int, int] | None:
    """Returns the number of correct predictions and of all predictions, taking the images' folders as true classes.

    Returns None if the folders are not classes of the model: fewer than half of them appear in its predictions.
    """
    predicted = [row for row in rows if row["label"] and "/" in row["key"]]
    pairs = [(row["key"].split("/")[-2], row) for row in predicted]
    folders = {folder for folder, _ in pairs}
    names = {str(label): "" for row in predicted if row["top_k"] for label, _ in json.loads(row["top_k"])}
    names |= {row["label"]: row["class_name"] for row in predicted}
    known = [folder for folder in folders if any(_is_class(folder, *label) for label in _labels(folder, names))]
    if not folders or 2 * len(known) < len(folders):
        return None
    return sum(_is_class(folder, row["label"], row["class_name"]) for folder, row in pairs), len(pairs)


def _labels(folder: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns label and name of the classes that a folder may be: `1.5L` has label `1.5L` or `1`."""
    return [(label, names[label]) for label in (folder, parse_class(folder).label) if label in names]


def _is_class(folder: str, label: str, name: str) -> bool:
    """Returns whether a folder is that of a class; names count too, because data sets may share label numbers."""
    parsed = parse_class(folder)
    return label == folder or (label == parsed.label and name in ("", parsed.name))


def _has_partial_header(path: Path) -> bool:
    header = ",".join(COLUMNS).encode()
    with path.open("rb") as file:
        return (header + b"\r").startswith(file.read(len(header) + 2))


def _truncate_to_complete_lines(path: Path) -> None:
    if path.is_file():  # not a pipe
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
