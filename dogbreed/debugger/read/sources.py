"""Finds and reads the records of a training: a run's folder, an smdebug folder, an old SageMaker job's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dogbreed.debugger import files
from dogbreed.debugger.read.reader import add_system_metrics, read_run
from dogbreed.debugger.read.smdebug_trial import is_smdebug, read_smdebug
from dogbreed.debugger.recording import Missing, Recording
from dogbreed.errors import UserError


def is_run(folder: Path) -> bool:
    """Returns whether one of our recorders wrote into `folder`."""
    return any((folder / files.DEBUG / name).exists() for name in (files.RUN, files.RECORDS, files.TIMINGS))


def is_sagemaker_job(folder: Path) -> bool:
    """Returns whether `folder` has SageMaker Debugger's layout: `debug-output` or `profiler-output`."""
    return is_smdebug(folder / files.DEBUG_OUTPUT) or (folder / files.PROFILER_OUTPUT).is_dir()


def run_folders(folder: Path) -> list[Path]:
    """Returns the folders of runs at or below `folder`: itself, the trials of a sweep, a job's output."""
    if is_run(folder) or is_smdebug(folder) or is_sagemaker_job(folder):
        return [folder]
    found = {
        path.parent.parent for name in (files.RUN, files.TIMINGS) for path in folder.rglob(f"{files.DEBUG}/{name}")
    }
    return sorted(found)


def read_any(folder: Path) -> Recording:
    """Returns what was recorded in `folder`, by any of the supported recorders.

    Raises:
        UserError: there is nothing to read, or smdebug is needed and not installed.
    """
    if is_run(folder):
        return read_run(folder)
    if is_smdebug(folder):
        return read_smdebug(folder)
    if not is_sagemaker_job(folder):
        expected = (
            "debug/ (a run), collections/ and events/ (smdebug), or debug-output/ and profiler-output/ (SageMaker)"
        )
        raise UserError(f"nothing recorded in {folder}; a report needs {expected}")
    recording = Recording()
    if is_smdebug(folder / files.DEBUG_OUTPUT):
        recording = read_smdebug(folder / files.DEBUG_OUTPUT)
    else:
        recording.problems.append("no debug-output: no tensors were recorded")
    recording.name = folder.name
    add_system_metrics(recording, folder / files.PROFILER_OUTPUT)
    return recording


def add_other_runs(recording: Recording, folders: Sequence[str]) -> None:
    """Adds the tensors of other runs to compare with; a run without tensors becomes a problem."""
    runs, reasons = {}, []
    for folder in folders:
        try:
            other = read_any(Path(folder))
        except UserError as error:
            reasons.append(str(error))
            continue
        recording.problems += [f"{folder}: {problem}" for problem in other.problems]
        tensors = other.get("tensors")
        if isinstance(tensors, Missing):
            reasons.append(f"{folder}: {tensors.reason}")
        else:
            runs[Path(folder).name] = tensors
    recording.problems += reasons
    if runs:
        recording.inputs["other_runs"] = runs
    elif reasons:
        recording.missing["other_runs"] = Missing("; ".join(reasons))
