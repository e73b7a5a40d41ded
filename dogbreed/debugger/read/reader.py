"""Reads the recorded files of a run. Damaged files are reported in `problems`; the rest is read. No torch here."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.debugger import files
from dogbreed.debugger.read.assemble import Row, assemble, metrics_by_epoch
from dogbreed.debugger.read.system_metrics import read_system_metrics
from dogbreed.debugger.read.timings import timing_inputs
from dogbreed.debugger.recording import Missing, Recording
from dogbreed.debugger.series import ImageHashes, NodeActivity, Predictions

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)
"""Exceptions that reading a damaged file can raise."""


_OF_STEPS = (
    *("tensors", "gradients", "weights", "updates", "losses", "train_losses", "input_images"),
    *("step_times", "heartbeats", "system"),
)
"""Inputs that are recorded during training steps."""


def read_run(folder: Path) -> Recording:
    """Returns what was recorded in a run's folder."""
    recording = Recording(name=files.run_name(folder), command=files.run_command(folder))
    problems = recording.problems
    debug = folder / files.DEBUG
    settings = _read_json(debug / files.RUN, problems)
    rows = _read_lines(debug / files.RECORDS, problems)
    activity = _guarded(debug / files.ACTIVATIONS, _activity, problems) or {}
    recording.inputs = _guarded(debug / files.RECORDS, lambda _: assemble(rows, settings, activity), problems) or {}
    recording.metrics = metrics_by_epoch(rows)
    recording.events = [row for row in rows if row.get("kind") == "event"]
    for split in ("test", "val"):
        predictions = _guarded(debug / f"predictions-{split}.npz", _predictions, problems)
        if predictions is not None:
            recording.inputs.setdefault("predictions", predictions)
    _add_images(recording, debug / files.IMAGES)
    _guarded(debug / files.TIMINGS, lambda path: _add_times(recording, path), problems)
    add_system_metrics(recording, folder / files.PROFILER_OUTPUT)
    _explain_missing(recording)
    return recording


def _explain_missing(recording: Recording) -> None:
    if recording.settings.get("finetune") == "linear_probe":
        reason = Missing("a linear probe has no training steps", not_applicable=True)
        recording.missing |= dict.fromkeys(_OF_STEPS, reason)
    if recording.settings.get("compiled"):
        for name in ("activation_inputs", "relu_activity", "saturation"):
            recording.missing[name] = Missing("activations are not recorded under torch.compile")
    if recording.inputs.get("system") is None:
        recording.missing["gpus"] = Missing("the machine was not sampled; train with debugger.profiler.enabled=true")
    elif str(recording.settings.get("device")).startswith("cuda"):
        recording.missing["gpus"] = Missing("the training ran on a GPU for which the driver (NVML) returned no metrics")


def _guarded(path: Path, read: Callable[[Path], Any], problems: list[str]) -> Any:
    """Returns what `read` returns for a file, None without a file, None and a problem for a damaged one."""
    if not path.exists():
        return None
    try:
        return read(path)
    except _UNREADABLE as error:
        problems.append(f"{path.name} is damaged and skipped ({type(error).__name__}: {error})")
        return None


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    value = _guarded(path, lambda p: json.loads(p.read_text(encoding="utf-8")), problems)
    return value if isinstance(value, dict) else {}


def _read_lines(path: Path, problems: list[str]) -> list[Row]:
    """Returns the rows of a JSON Lines file; lines that are not JSON objects are counted and skipped."""
    if not path.exists():
        return []
    rows, num_damaged = [], 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                num_damaged += bool(line.strip())
    if num_damaged:
        problems.append(f"{path.name}: {num_damaged} of {num_damaged + len(rows)} lines are damaged and skipped")
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
    value = _read_json(path, recording.problems)
    if value:
        hashes = {s: {k: int(h, 16) for k, h in found.items()} for s, found in value.get("hashes", {}).items()}
        recording.inputs["images"] = ImageHashes(hashes, value.get("bad", {}), int(value.get("num_images", 0)))


def _add_times(recording: Recording, path: Path) -> None:
    inputs, settings, recording.phases_s = timing_inputs(_read_lines(path, recording.problems))
    recording.inputs |= inputs
    if settings:
        recording.inputs.setdefault("settings", {}).update(settings)


def add_system_metrics(recording: Recording, folder: Path) -> None:
    """Adds the system metrics of a folder in SageMaker's layout, if it exists."""
    if folder.is_dir():
        system, problems = read_system_metrics(folder)
        recording.problems += problems
        if system is not None:
            recording.inputs["system"] = system
            if system.gpu is not None:
                recording.inputs["gpus"] = system
