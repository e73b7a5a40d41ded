"""The metric line a job prints and the regex that reads it: one definition for both ends.

SageMaker finds metrics by applying a regular expression to the job's log. The line is separate plain text,
so that progress bars and colour codes cannot hide it:

    metrics epoch=3 val/accuracy=0.8125 val/loss=0.6931
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

METRICS = ("val/accuracy", "val/loss", "val/f1", "val/top5_accuracy", "train/loss", "train/accuracy")
"""What a training prints of each epoch: what can be its objective."""

PREFIX = "metrics"
"""First word of a metric line."""

NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
"""A finite number as `metric_line` writes it; nan and inf do not match, so a diverged trial has no objective."""


def metric_line(epoch: int, metrics: Mapping[str, float], exact: bool = False) -> str:
    """Returns the line to print for `metrics` (name to value) after `epoch` (counted from 0).

    Values have six digits, or with `exact` as many as a float has.

    Raises:
        ValueError: A name contains a character that the regex cannot distinguish from the rest of the line.
    """
    for name in metrics:
        if not re.fullmatch(r"[\w/.-]+", name):
            raise ValueError(f"metric name {name!r} may hold letters, digits and _ / . - only")
    values = (f"{name}={value!r}" if exact else f"{name}={value:.6g}" for name, value in metrics.items())
    return " ".join([PREFIX, f"epoch={epoch}", *values])


def metric_regex(name: str) -> str:
    """Returns the SageMaker `MetricDefinitions` regex whose group 1 is the value of metric `name` in a metric line.

    Only escapes that mean the same in every regex dialect are written: `/` and `_` stay as they are.
    """
    return rf"^{PREFIX} epoch=[0-9]+ (?:.* )?{name.replace('.', '[.]')}=({NUMBER})(?:\s|$)"


def read_metrics(line: str) -> dict[str, float]:
    """Returns the finite metrics of a metric line, including `epoch`, an integer; {} for any other line."""
    words = line.strip().split(" ")
    if words[0] != PREFIX:
        return {}
    pairs = (word.rpartition("=") for word in words[1:])
    values = {name: float(value) for name, _, value in pairs if re.fullmatch(rf"{NUMBER}|nan|[-+]?inf", value)}
    return {name: value for name, value in values.items() if math.isfinite(value)}
