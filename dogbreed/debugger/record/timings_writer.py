"""Writes `debug/timings.jsonl`: times of training steps, heartbeats during validation, seconds per phase."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dogbreed.debugger import files
from dogbreed.debugger.series import PARTS, PHASES
from dogbreed.system.json_lines import JsonLines

_BLOCK = 50
"""Steps per line."""

_HEARTBEAT_S = 10.0
"""Least seconds between recorded heartbeats."""


class _Step(NamedTuple):
    """One training step."""

    number: int
    epoch: int
    end_s: float
    seconds: Mapping[str, float]


class TimingsWriter:
    """Appends to the timings of a run.

    Args:
        folder: The run's folder.
        now: Seconds since the epoch.
    """

    def __init__(self, folder: Path, now: float) -> None:
        self.phases = dict.fromkeys(PHASES, 0.0)
        """Seconds per phase."""
        self._lines = JsonLines(folder / files.DEBUG / files.TIMINGS)
        self._steps: list[_Step] = []
        self._phase, self._since = "setup", now
        self._heartbeat = 0.0

    def add_step(self, number: int, epoch: int, end_s: float, seconds: Mapping[str, float]) -> None:
        """Adds a step: batch number, epoch, when it ended (seconds since the epoch), seconds per part."""
        self._heartbeat = end_s
        self._steps.append(_Step(number, epoch, end_s, seconds))
        if len(self._steps) >= _BLOCK:
            self.flush()

    def add_heartbeat(self, now: float) -> None:
        """Records that the training is alive outside of steps."""
        if now - self._heartbeat >= _HEARTBEAT_S:
            self._heartbeat = now
            self.flush()
            self._lines.write({"kind": "heartbeat", "time": round(now, 3)})
            self._lines.flush()

    def enter_phase(self, phase: str, now: float) -> None:
        """Starts one of `PHASES`."""
        self.phases[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def flush(self) -> None:
        """Writes the steps so far."""
        if self._steps:
            numbers, epochs, ends, seconds = zip(*self._steps, strict=True)
            parts = {name: files.rounded([step[name] for step in seconds], 4) for name in PARTS}
            row = {"kind": "steps", "steps": numbers, "epochs": epochs, "ends": [round(end, 3) for end in ends]}
            self._lines.write({**row, "parts": parts})
            self._lines.flush()
            self._steps = []

    def close(self, settings: Mapping[str, Any]) -> None:
        """Writes pending steps and the phases with additional settings of the run; the next row reopens the file."""
        self.flush()
        self._lines.write({"kind": "phases", "seconds": self.phases, "settings": dict(settings)})
        self._lines.close()
