"""Predictions in the terminal: the table of named images, and the progress of a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from launch.spec.prediction import Prediction

NUM_RUNNER_UPS = 2
"""Classes after the best one that the table shows."""

PRINT_EVERY_S = 10.0
"""Interval of progress lines if the output is not a terminal."""


def predictions_table(predictions: Mapping[str, Prediction | str]) -> Table:
    """Returns one row per image: its best classes, or the reason why there is no prediction."""
    table = Table()
    for column in ("image", "class", "label", "confidence", "runners-up"):
        table.add_column(column, justify="right" if column == "confidence" else "left", overflow="fold")
    for image, prediction in predictions.items():
        if isinstance(prediction, str):
            table.add_row(image, Text(prediction, style="red"))
            continue
        label, class_name, confidence = prediction.best
        runner_ups = ", ".join(f"{s.class_name} {s.confidence:.4f}" for s in prediction.top[1 : 1 + NUM_RUNNER_UPS])
        table.add_row(image, class_name, label, "" if confidence is None else f"{confidence:.4f}", runner_ups)
    return table


class PredictionProgress:
    """Progress of many images: a bar on a terminal, otherwise a line every few seconds.

    Attributes:
        done: Images with an outcome.
        unreadable: Images that cannot be read.
        failed: Images that the endpoint or the store failed on.
    """

    def __init__(self, out: Console, total: int) -> None:
        self.done = self.unreadable = self.failed = 0
        self._out, self._total = out, total
        self._started = self._printed = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> PredictionProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, *, unreadable: bool, failed: bool) -> None:
        """Counts one more image."""
        self.done += 1
        self.unreadable += unreadable
        self.failed += failed
        now = time.monotonic()
        rate = self.done / max(now - self._started, 1e-9)
        description = f"{rate:.0f} per second, {self.unreadable} unreadable, {self.failed} failed"
        self._bar.update(self._task, completed=self.done, description=description)
        if not self._out.is_terminal and now - self._printed > PRINT_EVERY_S:
            self._printed = now
            self._out.print(f"{self.done} of {self._total}, {description}")

    @property
    def summary(self) -> str:
        """Number of images, and of those without a prediction."""
        counts = {"unreadable": self.unreadable, "failed": self.failed}
        return ", ".join([f"{self.done} images", *(f"{count} {kind}" for kind, count in counts.items() if count)])
