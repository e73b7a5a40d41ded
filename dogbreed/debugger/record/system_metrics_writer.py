"""Writes system metrics in SageMaker's profiler layout, which smdebug's readers understand too.

    profiler-output/system/incremental/<YYYYMMDDHH>/<epoch seconds of the full minute>.<node>.json

One JSON object per line: Type, Name, Dimension, Value, NodeId, Timestamp (seconds). `cpu` and `gpu` rows use
SageMaker's names; the other names are ours, since no public file documents them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from dogbreed.system.json_lines import JsonLines

Sample = tuple[str, str, str, float]
"""(Type, Dimension, Name, Value) of one row."""


class SystemMetricsWriter:
    """Writes snapshots of the machine, one file per minute.

    Args:
        folder: `profiler-output` of the run.
        node: SageMaker's name of this machine.
    """

    def __init__(self, folder: Path, node: str = "algo-1") -> None:
        self.folder = folder
        self.node = node
        self._minute = -1
        self._lines: JsonLines | None = None

    def write(self, time_s: float, samples: Iterable[Sample]) -> None:
        """Appends a snapshot taken at `time_s`, seconds since the epoch."""
        minute = int(time_s // 60) * 60
        if self._lines is None or minute != self._minute:
            self.close()
            hour = datetime.fromtimestamp(minute, tz=timezone.utc).strftime("%Y%m%d%H")
            path = self.folder / "system" / "incremental" / hour / f"{minute}.{self.node}.json"
            self._lines, self._minute = JsonLines(path), minute
        for kind, dimension, name, value in samples:
            row = {"Type": kind, "Name": name, "Dimension": dimension, "Value": round(value, 3)}
            self._lines.write({**row, "NodeId": self.node, "Timestamp": round(time_s, 4)})
        self._lines.flush()

    def close(self) -> None:
        """Closes the current file."""
        if self._lines is not None:
            self._lines.close()
