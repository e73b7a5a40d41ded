from __future__ import annotations

import numpy as np
import pytest

from dogbreed.debugger.recording import Recording
from dogbreed.debugger.report.prediction_sections import confusion
from dogbreed.debugger.report.sections import curves, duration, step_times
from dogbreed.debugger.series import Predictions, Series


def predictions(labels: list[int], predicted: list[int], classes: int) -> Predictions:
    names = tuple(f"{i:03}.breed_{i}" for i in range(classes))
    probabilities = np.eye(classes)[predicted]
    return Predictions(np.array(labels), probabilities, np.arange(len(labels)), names, "test", ())


def test_confusion_of_few_classes_shows_all_with_names():
    section = confusion(predictions([0, 0, 1, 2], [0, 1, 1, 2], 3))
    assert section.matrix is not None
    assert list(section.matrix.columns) == list(section.matrix.names) == ["breed 0", "breed 1", "breed 2"]
    assert section.matrix.rows[0] == [(1, 50.0), (1, 50.0), (0, 0.0)]
    assert section.table is not None and section.table["rows"] == [["breed 0", "breed 1", 1, "50 %"]]


def test_confusion_of_many_classes_shows_the_worst_20():
    labels = [*range(100), 42, 42, 42]
    section = confusion(predictions(labels, [*range(100), 7, 7, 8], 100))
    assert section.matrix is not None
    assert section.matrix.names[:3] == ["breed 42", "breed 7", "breed 8"]
    assert section.matrix.columns[-1] == "other classes"
    assert len(section.matrix.names) == 20
    for row in section.matrix.rows:
        assert sum(share for _, share in row) == pytest.approx(100)


def test_curves_of_one_epoch_are_facts():
    recording = Recording(metrics={"val/accuracy": ([0], [0.5]), "train/accuracy": ([0], [0.25])})
    recording.inputs["val_losses"] = Series.of([1.5], [0])
    section = curves(recording)
    assert section is not None and not section.charts
    assert section.facts == {"validation loss": "1.5", "train accuracy": "0.25", "validation accuracy": "0.5"}


def test_curves_of_two_epochs_are_charts():
    section = curves(Recording(metrics={"val/accuracy": ([0, 1], [0.5, 0.6])}))
    assert section is not None and [title for title, _ in section.charts] == ["Accuracy by epoch"]


def test_phases_add_up_to_the_run():
    section = step_times(Recording(phases_s={"setup": 90.0, "train": 8.0, "test": 2.0, "other": 0.0}))
    assert section is not None and section.shares[0].title == "The run: 1 min 40 s"
    assert section.shares[0].parts == [("setup", "1 min 30 s", 90.0), ("train", "8.0 s", 8.0), ("test", "2.0 s", 2.0)]


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (3599.6, "1 h 0 min"), (61, "1 min 1 s")])
def test_duration_has_two_units(seconds: float, text: str):
    assert duration(seconds) == text
