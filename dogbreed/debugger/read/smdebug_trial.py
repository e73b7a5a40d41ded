"""Reads a folder that smdebug wrote, from a run or an old SageMaker job, into the inputs of rules.

Damaged files are reported in `problems`; the rest is read.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.debugger.recording import Missing, Recording
from dogbreed.debugger.series import Series, TensorSeries
from dogbreed.errors import UserError

_REDUCTIONS = {
    "mean": ("mean", False),
    "abs_mean": ("mean", True),
    "abs_max": ("max", True),
    "var": ("variance", False),
}
"""Our statistic to smdebug's (reduction, of absolute values)."""


def is_smdebug(folder: Path) -> bool:
    """Returns whether `folder` looks like one of smdebug's: it has `collections/` or `index/`, and events."""
    return any((folder / name).is_dir() for name in ("collections", "index")) and (folder / "events").is_dir()


def read_smdebug(folder: Path) -> Recording:
    """Returns the recording of an smdebug folder.

    Raises:
        UserError: smdebug is not installed.
    """
    recording = Recording(name=folder.name)
    problems = recording.problems
    if not list(folder.glob("collections/*/*.json")):
        problems.append(f"{folder.name}: no collections file; smdebug writes it with the first saved step")
        return recording
    problems += broken_files(folder)
    trial = _open(folder, problems)
    if trial is None:
        return recording
    problems += _strangers(trial)
    values: dict[str, dict[str, dict[int, Any]]] = {"weights": {}, "gradients": {}, "activation_inputs": {}}
    reduced: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    losses: dict[str, dict[int, float]] = {}
    failed = 0
    inputs = _activation_inputs(trial)
    for name in trial.tensor_names():
        kind = "activation_inputs" if name in inputs else kind_of(name)
        steps, errors = _values(trial, name)
        failed += errors
        if kind == "losses":
            losses[name] = {step: float(np.mean(value)) for step, value in steps.items() if not isinstance(value, dict)}
        elif kind:
            whole = {step: value for step, value in steps.items() if not isinstance(value, dict)}
            if whole:
                values[kind][_short(name)] = whole
            elif steps:
                reduced.setdefault(kind, {})[_short(name)] = _by_statistic(steps)
    if failed:
        problems.append(f"{folder.name}: {failed} tensors could not be read")
    for kind, tensors in values.items():
        tags = {name: frozenset({"bias"}) for name in tensors if name.endswith("bias")}
        if tensors:
            recording.inputs[kind] = TensorSeries.of(tensors, tags)
        elif kind in reduced:
            recording.inputs[kind] = _reduced_series(reduced[kind])
    _add_updates(recording, values["weights"])
    _add_losses(recording, losses)
    reason = "smdebug's files do not contain it"
    recording.missing |= {name: Missing(reason, not_applicable=True) for name in ("settings", "class_counts", "images")}
    return recording


def broken_files(folder: Path) -> list[str]:
    """Returns a line for each index or event file that is truncated or of another version."""
    problems = []
    for path in sorted(folder.glob("index/*/*.json")):
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(index, dict) or "tensor_payload" not in index:
                problems.append(f"{path.name}: not an index of smdebug 1.0")
        except ValueError:
            problems.append(f"{path.name}: truncated index; its step is skipped")
            path_of_step = path.name.partition("_")[0]
            problems[-1] += f" (step {int(path_of_step)})" if path_of_step.isdigit() else ""
    for path in sorted(folder.glob("events/*/*")):
        if path.suffix == ".tmp" or not path.stat().st_size:
            problems.append(f"{path.name}: truncated events; its step is skipped")
    return problems


def _open(folder: Path, problems: list[str]) -> Any:
    try:
        from smdebug.trials import create_trial
    except (ImportError, TypeError) as error:
        text = f"{folder} was written by smdebug, which cannot be imported ({error}): pip install 'dogbreed[debug]'"
        raise UserError(text) from error
    readable = folder
    if problems or not (folder / "training_job_end.ts").exists():
        readable = _whole_copy(folder)
    try:
        return create_trial(str(readable))
    except Exception as error:  # noqa: BLE001 - smdebug raises many kinds on files of another version
        problems.append(f"{folder.name} cannot be read by smdebug ({type(error).__name__}: {error})")
        return None


def _whole_copy(folder: Path) -> Path:
    """Returns a temporary folder of links to the intact files, marked as ended; smdebug would wait for the rest."""
    import atexit
    import shutil
    import tempfile

    copy = Path(tempfile.mkdtemp(prefix="dogbreed-smdebug-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for path in [*folder.glob("collections/*/*.json"), *folder.glob("index/*/*.json"), *folder.glob("events/*/*")]:
        if path.suffix == ".json" and not _is_json(path):
            continue
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    (copy / "training_job_end.ts").touch()
    return copy


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _activation_inputs(trial: Any) -> set[str]:
    names = [name for name in trial.collections() if name.endswith("_input")]
    return {tensor for name in names for tensor in trial.tensor_names(collection=name)}


def kind_of(name: str) -> str:
    """Returns the input that a tensor belongs to by smdebug's naming, "" for none."""
    if name.startswith("gradient"):
        return "gradients"
    if re.search(r"[Ll]oss_(?!input).*output", name):
        return "losses"
    if re.search(r"(relu|act|tanh|sigmoid)\w*_input", name, re.IGNORECASE):
        return "activation_inputs"
    return "weights" if name.endswith(("weight", "bias")) else ""


def _strangers(trial: Any) -> list[str]:
    """Returns a line if tensors have names of another framework than PyTorch."""
    names = trial.tensor_names()
    strange = [name for name in names if not kind_of(name) and not re.search(r"_(in|out)put_[0-9]+$", name)]
    text = f"{len(strange)} of {len(names)} tensors do not have a PyTorch name and are skipped, such as"
    return [f"{text} {name}" for name in strange[:1]]


def _short(name: str) -> str:
    """Returns `layer1.0.conv1.weight` for `gradient/ResNet_layer1.0.conv1.weight`."""
    return re.sub(r"^(gradient/)?[A-Za-z0-9]+_", "", name) if name.endswith(("weight", "bias")) else name


def _values(trial: Any, name: str) -> tuple[dict[int, Any], int]:
    """Returns (step to value or to {reduction: value}, number that could not be read)."""
    from smdebug import modes

    tensor = trial.tensor(name)
    mode = next((m for m in (modes.TRAIN, modes.EVAL, modes.GLOBAL) if tensor.steps(mode=m)), modes.GLOBAL)
    result: dict[int, Any] = {}
    errors = 0
    for step in tensor.steps(mode=mode):
        try:
            reductions = tensor.reduction_values(step, mode=mode)
            value = {} if reductions else tensor.value(step, mode=mode)
            result[int(step)] = reductions or value
        except Exception:  # noqa: BLE001 - a truncated event file can raise anything; counted and reported
            errors += 1
    return result, errors


def _by_statistic(steps: dict[int, Any]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for step, reductions in steps.items():
        for ours, theirs in _REDUCTIONS.items():
            if theirs in reductions:
                found.setdefault(ours, {})[step] = float(reductions[theirs])
    return found


def _reduced_series(tensors: dict[str, dict[str, dict[int, float]]]) -> TensorSeries:
    steps = sorted({step for stats in tensors.values() for saved in stats.values() for step in saved})
    row = {step: i for i, step in enumerate(steps)}
    table = {ours: np.full((len(steps), len(tensors)), np.nan) for ours in _REDUCTIONS}
    for column, stats in enumerate(tensors.values()):
        for ours, saved in stats.items():
            for step, value in saved.items():
                table[ours][row[step], column] = value
    tags = {name: frozenset({"bias"}) for name in tensors if name.endswith("bias")}
    return TensorSeries(tuple(tensors), np.asarray(steps, dtype=np.int64), table, None, tags)


def _add_updates(recording: Recording, weights: dict[str, dict[int, Any]]) -> None:
    """Adds updates between adjacent optimizer steps; steps saved further apart do not show a single update."""
    steps = sorted({step for saved in weights.values() for step in saved})
    rows = [(a, b) for a, b in pairwise(steps) if b == a + 1]
    if not rows:
        return
    moved, size = np.full((len(rows), len(weights)), np.nan), np.full((len(rows), len(weights)), np.nan)
    for column, saved in enumerate(weights.values()):
        for i, (a, b) in enumerate(rows):
            if a in saved and b in saved:
                moved[i, column], size[i, column] = np.abs(saved[b] - saved[a]).mean(), np.abs(saved[a]).mean()
    tags = {name: frozenset({"bias"}) for name in weights if name.endswith("bias")}
    stats = {"abs_mean": moved, "weight_abs_mean": size}
    recording.inputs["updates"] = TensorSeries(tuple(weights), np.array([a for a, _ in rows]), stats, None, tags)


def _add_losses(recording: Recording, losses: dict[str, dict[int, float]]) -> None:
    for name, saved in losses.items():
        series = Series.of([saved[step] for step in sorted(saved)], sorted(saved))
        recording.inputs["val_losses" if name.startswith("val") else "losses"] = series
