"""Metrics as SageMaker takes them: regular expressions over the job's log, line by line as they come."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 1 << 16
"""A longer line is a progress bar without line ends; only its end is kept."""

Metric = dict[str, Any]


class LineTail:
    """Complete lines appended to a file since the last look."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0
        self._rest = b""

    def read(self, last: bool = False) -> list[str]:
        """Returns the new lines; with `last` also the one that has no line end."""
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


class Scraper:
    """The metrics of one job: read from its log, written to `metrics.jsonl`.

    Args:
        log: the job's log.
        definitions: the request's MetricDefinitions; group 1 of each Regex is the number.
        output: gets one line for each value, `{"name", "value", "time"}`, time in seconds since the epoch.
    """

    def __init__(self, log: Path, definitions: Iterable[Mapping[str, str]], output: Path):
        self._tail = LineTail(log)
        self._patterns = [(item["Name"], re.compile(item["Regex"])) for item in definitions]
        self._output = output

    def read(self, last: bool = False) -> list[Metric]:
        """Returns the metrics of the lines that came since the last call, having written them down."""
        now = time.time()
        found = [
            {"name": name, "value": value, "time": now}
            for line in self._tail.read(last)
            for name, pattern in self._patterns
            if (value := _number(pattern.search(line))) is not None
        ]
        if found:
            with self._output.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(metric) + "\n" for metric in found)
        return found


def _number(match: re.Match[str] | None) -> float | None:
    """Returns the finite number in group 1, or None."""
    if match is None or not match.re.groups or match[1] is None:
        return None
    try:
        value = float(match[1])
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def parse_metrics(lines: Iterable[str]) -> list[Metric]:
    """Returns the metrics in lines of `metrics.jsonl`; a line cut short by a full disk is left out."""
    metrics = []
    for line in lines:
        try:
            metrics.append(json.loads(line))
        except ValueError:
            continue
    return metrics
