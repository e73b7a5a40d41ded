"""What is known of a job, from the files in its folder, whoever else reads or writes them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.local.job_store import LOG, REQUEST, STATE, STOP, TUNER_LOG, read_json, unheld, write_json

ACCOUNT = "000000000000"
TRAINING = "training-job"
TUNING = "hyper-parameter-tuning-job"
FINAL = frozenset({"Completed", "Failed", "Stopped"})
START_TOLERANCE_S = 5.0
"""How far a process's start may lie from the recorded one and still be the same process."""

Json = dict[str, Any]


def job_arn(kind: str, name: str) -> str:
    """Returns the ARN of a job on this machine; `kind` is as ARNs have it: TRAINING, TUNING, endpoint."""
    return f"arn:aws:sagemaker:local:{ACCOUNT}:{kind}/{name}"


def new_state(kind: str, name: str, command: Sequence[str], stop_grace_s: float, **more: Any) -> Json:
    """Returns the state of a job that is being made.

    Args:
        kind: TRAINING or TUNING.
        name: of the job.
        command: what a training job runs.
        stop_grace_s: seconds from SIGTERM to SIGKILL.
        more: further entries.
    """
    now = time.time()
    return {
        "name": name,
        "arn": job_arn(kind, name),
        "status": "InProgress",
        "secondary": "Starting",
        "created": now,
        "modified": now,
        "command": list(command),
        "stop_grace_s": stop_grace_s,
        **more,
    }


def is_tuning(folder: Path) -> bool:
    """Returns whether the folder is a tuning job's, also where its files cannot be read."""
    return (folder / TUNER_LOG).exists()


def is_job(folder: Path) -> bool:
    """Returns whether the folder holds a job at all; one that may not be looked into holds none."""
    try:
        return (folder / REQUEST).exists()
    except OSError:
        return False


_ended: dict[tuple[str, int, int], Json] = {}
"""State of each ended job that was looked at, by folder, inode and time of its file: it does not change any more."""


def look(folder: Path) -> Json:
    """Returns the state of a job, with its name, ARN, statuses and creation time whatever its files lack."""
    seen = None
    with suppress(OSError):
        file = (folder / STATE).stat()
        seen = str(folder), file.st_ino, file.st_mtime_ns
        if seen in _ended:
            return dict(_ended[seen])
    known = {
        "name": folder.name,
        "arn": job_arn(TUNING if is_tuning(folder) else TRAINING, folder.name),
        "status": "InProgress",
        "secondary": "Starting",
        "created": folder.stat().st_mtime,
        "modified": folder.stat().st_mtime,
    }
    state = {**known, **_settled(folder)}
    if state["status"] not in FINAL and (folder / STOP).exists():
        state.update(status="Stopping", secondary="Stopping")
    if is_tuning(folder.parent):
        state["tuning_arn"] = job_arn(TUNING, folder.parent.name)
    if seen and state["status"] in FINAL and state.get("stopped_by") != "lost":
        _ended[seen] = dict(state)
    return state


def _settled(folder: Path) -> Json:
    """Returns what `state.json` says, having set it to Failed where the job's supervisor died before its end."""
    state = read_json(folder / STATE)
    if state.get("status") in FINAL:
        return state
    with unheld(folder) as orphaned:
        if not orphaned:
            return state
        state = read_json(folder / STATE)  # it may have written its last word before it let go
        if state.get("status") in FINAL:
            return state
        end_stray(state)
        state = _failed(folder, state)
        with suppress(OSError):  # another user's folder can be looked at, not mended
            write_json(folder / STATE, state)
    return state


def _failed(folder: Path, state: Json) -> Json:
    """Returns the state of a job whose supervisor ended without a last word."""
    log = folder / (TUNER_LOG if is_tuning(folder) else LOG)
    reason = (
        f"InternalServerError: its supervisor process ended without a word (killed, or the machine stopped); see {log}"
    )
    if not state:
        reason = f"InternalServerError: {folder / STATE} cannot be read"
    seen = [entry.stat().st_mtime for name in (STATE, LOG, TUNER_LOG) if (entry := folder / name).exists()]
    ended = max(seen, default=time.time())
    return {
        **state,
        "status": "Failed",
        "secondary": "Failed",
        "stopped_by": "lost",
        "failure": reason,
        "ended": ended,
        "modified": ended,
    }


def end_stray(state: Json) -> None:
    """Kills the training process that outlived its supervisor, if it is still the one recorded."""
    pid, started = state.get("pid"), state.get("started")
    if not pid or not started:
        return
    import psutil

    with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        if abs(psutil.Process(pid).create_time() - started) < START_TOLERANCE_S:
            os.killpg(pid, 9)


def ask_to_stop(folder: Path, kind: str, because: str) -> None:
    """Asks the holder of the folder to stop the job; the first one to ask is the one remembered.

    Args:
        folder: the job's folder.
        kind: `user`, `early_stopping`, `sweep_completed` or `sweep_stopped`.
        because: one sentence for the status message.
    """
    if not (folder / STOP).exists():
        write_json(folder / STOP, {"kind": kind, "because": because})
