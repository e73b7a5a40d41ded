"""Metrics of a job, scraped from its log with regular expressions as SageMaker does."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 1 << 16
"""Of a longer line, a progress bar without line ends, only the end is kept."""

Metric = dict[str, Any]


class LineTail:
    """Reads the complete lines that were appended to a file since the last read."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0
        self._rest = b""

    def read(self, last: bool = False) -> list[str]:
        """Returns the new lines; if `last`, including one without a line end."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            self._offset += len(new)
            self._rest += new
        *lines, self._rest = self._rest.split(b"\n")
        self._rest = self._rest[-MAX_LINE_BYTES:]
        if last and self._rest:
            lines.append(self._rest)
            self._rest = b""
        return [line.decode("utf-8", "replace") for line in lines]

    def tail(self, count: int) -> list[str]:
        """Returns the last `count` new lines."""
        return self.read(last=True)[-count:]


class Scraper:
    """Scrapes the metrics of one job from its log into `metrics.jsonl`.

    Args:
        log: The job's log.
        definitions: The request's MetricDefinitions; group 1 of each Regex is the value.
        output: File to which `{"name", "value", "time"}` is appended per value; time in seconds since the epoch.
    """

    def __init__(self, log: Path, definitions: Iterable[Mapping[str, str]], output: Path):
        self._tail = LineTail(log)
        self._patterns = [(item["Name"], re.compile(item["Regex"])) for item in definitions]
        self._output = output

    def read(self, last: bool = False) -> list[Metric]:
        """Returns the metrics in the lines since the last call, after appending them to the output file."""
        now = time.time()
        metrics = [
            {"name": name, "value": value, "time": now}
            for line in self._tail.read(last)
            for name, pattern in self._patterns
            if (value := _number(pattern.search(line))) is not None
        ]
        if metrics:
            with self._output.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(metric) + "\n" for metric in metrics)
        return metrics


def _number(match: re.Match[str] | None) -> float | None:
    """Returns the finite number in group 1; None if there is none."""
    if match is None or not match.re.groups or match[1] is None:
        return None
    try:
        value = float(match[1])
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def parse_metrics(lines: Iterable[str]) -> list[Metric]:
    """Returns the metrics in lines of `metrics.jsonl`; skips lines that a full disk has truncated."""
    metrics = []
    for line in lines:
        try:
            metrics.append(json.loads(line))
        except ValueError:
            continue
    return metrics
