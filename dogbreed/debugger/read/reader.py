"""Reads what a run left in its folder. Whatever is broken is named in `problems`; the rest is read. No torch here."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger import files
from dogbreed.debugger.read.assemble import Row, assemble, metrics_by_epoch
from dogbreed.debugger.read.system_metrics import read_system_metrics
from dogbreed.debugger.recording import Missing, Recording
from dogbreed.debugger.series import PARTS, ImageHashes, NodeActivity, Predictions, StepTimes

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)
"""What reading a damaged file of ours can raise."""


def read_run(folder: Path) -> Recording:
    """Returns what was recorded in a run's folder."""
    recording = Recording(name=files.run_name(folder))
    problems = recording.problems
    debug = folder / files.DEBUG
    settings = _json(debug / files.RUN, problems)
    rows = _lines(debug / files.RECORDS, problems)
    activity = _guarded(debug / files.ACTIVATIONS, _activity, problems) or {}
    recording.inputs = _guarded(debug / files.RECORDS, lambda _: assemble(rows, settings, activity), problems) or {}
    recording.metrics = metrics_by_epoch(rows)
    recording.events = [row for row in rows if row.get("kind") == "event"]
    for split in ("test", "valid"):
        predictions = _guarded(debug / f"predictions-{split}.npz", _predictions, problems)
        if predictions is not None:
            recording.inputs.setdefault("predictions", predictions)
    _add_images(recording, debug / files.IMAGES)
    _guarded(debug / files.TIMINGS, lambda path: _add_times(recording, path), problems)
    add_system(recording, folder / files.PROFILER_OUTPUT)
    _explain_missing(recording)
    return recording


def _explain_missing(recording: Recording) -> None:
    if recording.settings.get("compiled"):
        for name in ("activation_inputs", "relu_activity", "saturation"):
            recording.missing[name] = Missing("activations are not recorded under torch.compile")
    if recording.inputs.get("system") is None:
        recording.missing["gpus"] = Missing("the machine was not watched; train with debugger.profiler.enabled=true")
    elif str(recording.settings.get("device")).startswith("cuda"):
        recording.missing["gpus"] = Missing("the training ran on a GPU of which the driver (NVML) told nothing")


def _guarded(path: Path, read: Callable[[Path], Any], problems: list[str]) -> Any:
    """Returns what `read` makes of a file, None (and a problem) where it is damaged, None where there is none."""
    if not path.exists():
        return None
    try:
        return read(path)
    except _UNREADABLE as error:
        problems.append(f"{path.name} is damaged and left out ({type(error).__name__}: {error})")
        return None


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    value = _guarded(path, lambda p: json.loads(p.read_text(encoding="utf-8")), problems)
    return value if isinstance(value, dict) else {}


def _lines(path: Path, problems: list[str]) -> list[Row]:
    """Returns the rows of a file of JSON lines; lines that are no JSON object are counted and left out."""
    if not path.exists():
        return []
    rows, broken = [], 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                broken += bool(line.strip())
    if broken:
        problems.append(f"{path.name}: {broken} of {broken + len(rows)} lines are damaged and left out")
    return rows


def _activity(path: Path) -> dict[str, NodeActivity]:
    result = {}
    with np.load(path, allow_pickle=False) as arrays:
        for number in range(len(arrays.files) // 2):
            name, kind, count, low, high, mode = (str(item) for item in arrays[f"meta_{number}"])
            inside = arrays[f"inside_{number}"].astype(np.float64)
            result[name] = NodeActivity(kind, inside, int(count), float(low), float(high), mode)
    return result


def _predictions(path: Path) -> Predictions:
    with np.load(path, allow_pickle=False) as arrays:
        return Predictions(
            arrays["labels"].astype(np.int64),
            arrays["probabilities"].astype(np.float64),
            arrays["indices"].astype(np.int64),
            tuple(str(name) for name in arrays["classes"]),
            path.stem.partition("-")[2],
            tuple(str(key) for key in arrays["keys"]),
        )


def _add_images(recording: Recording, path: Path) -> None:
    value = _json(path, recording.problems)
    if value:
        hashes = {s: {k: int(h, 16) for k, h in found.items()} for s, found in value.get("hashes", {}).items()}
        recording.inputs["images"] = ImageHashes(hashes, value.get("bad", {}), int(value.get("num_images", 0)))


def _add_times(recording: Recording, path: Path) -> None:
    sessions = _sessions(_lines(path, recording.problems))
    phases: Counter[str] = Counter()  # of seconds
    heartbeats: NDArray[np.float64] = np.empty(0)
    for session in sessions:
        times = _step_times(session.steps)
        if len(heartbeats) and session.steps:  # the pause before a training was resumed is no time without a step
            heartbeats += times.ends_s[0] - times.total[0] - heartbeats[-1]
        heartbeats = np.concatenate([heartbeats, times.ends_s])
        for row in session.phases:
            recording.inputs.setdefault("settings", {}).update(row.get("settings", {}))
        # A session that was killed has no phases.
        phases.update(session.phases[-1]["seconds"] if session.phases else {"train": float(times.total.sum())})
    if len(heartbeats):
        times = _step_times([row for session in sessions for row in session.steps])
        recording.inputs["step_times"] = replace(times, phases_s=dict(phases))
        recording.inputs["heartbeats"] = heartbeats


class _Session(NamedTuple):
    """What one process wrote about its time."""

    steps: list[Row]
    phases: list[Row]
    """Seconds since the process began; the last one counts."""


def _sessions(rows: Sequence[Row]) -> list[_Session]:
    """Returns the rows of each process that trained: one that resumes counts steps and seconds from 0 again."""
    sessions: list[_Session] = []
    for row in rows:
        steps, phases = sessions[-1] if sessions else ([], [])
        if row.get("kind") == "steps":
            again = bool(steps) and row["steps"][0] <= steps[-1]["steps"][-1]
        elif row.get("kind") == "phases":
            again = bool(phases) and any(row["seconds"].get(k, 0) < s for k, s in phases[-1]["seconds"].items())
        else:
            continue
        if again or not sessions:
            sessions.append(_Session([], []))
        getattr(sessions[-1], row["kind"]).append(row)
    return sessions


def _step_times(rows: Sequence[Row]) -> StepTimes:
    parts = {name: np.array([v for row in rows for v in row["parts"].get(name, ())]) for name in PARTS}
    steps, epochs = (np.array([v for row in rows for v in row[k]], dtype=np.int64) for k in ("steps", "epochs"))
    return StepTimes(steps, parts, epochs, np.array([value for row in rows for value in row["ends"]]))


def add_system(recording: Recording, folder: Path) -> None:
    """Adds what the machine did, from a folder in SageMaker's layout."""
    if folder.is_dir():
        system, problems = read_system_metrics(folder)
        recording.problems += problems
        if system is not None:
            recording.inputs["system"] = system
            if system.gpu is not None:
                recording.inputs["gpus"] = system
