"""The folder of a job or an endpoint: its files, its lock and its recorded state.

`mkdir` decides between two creators of one name. A supervisor process holds the folder's lock for as long as it runs;
the kernel releases an `flock` when its holder ends, however it ends. A free lock with an unfinished state therefore
means that the supervisor died. Only the holder writes `state.json`; any process may write `stop.json`, a stop request.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dogbreed.system.atomic import atomic_write

REQUEST = "request.json"
STATE = "state.json"
STOP = "stop.json"
TAGS = "tags.json"
METRICS = "metrics.jsonl"
LOG = "log.txt"
TUNER_LOG = "tuner.log"
LOCK = ".lock"

ACCOUNT = "000000000000"
TRAINING = "training-job"
TUNING = "hyper-parameter-tuning-job"
FINAL = frozenset({"Completed", "Failed", "Stopped"})
"""Statuses of a job that never change again."""
START_TOLERANCE_S = 5.0
"""Largest difference between a process's start time and the recorded one."""

MAX_TIME = 32_503_680_000.0
"""Seconds from 1970 to 3000; a later time is a damaged file."""

_STATE_TYPES: dict[str, type] = {
    "name": str, "arn": str, "status": str, "secondary": str, "failure": str, "command": list, "transitions": list,
    "metrics": dict, "tuned": dict, "pid": int, "next": dict,
}  # fmt: skip
_TIMES = ("created", "modified", "started", "ended")

Json = dict[str, Any]

_requests: dict[tuple[str, int, int], Json] = {}
"""Valid requests by file, inode and modification time."""


def write_json(path: Path, content: Json) -> None:
    """Writes `content` atomically."""
    atomic_write(path, lambda part: part.write_text(json.dumps(content, indent=1), encoding="utf-8"))


def read_json(path: Path) -> Json:
    """Returns the object in `path`, or {} if the file is missing, unreadable or not a JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_request(folder: Path) -> Json:
    """Returns the request of a job, or {} if its file is damaged."""
    path = folder / REQUEST
    try:
        file = path.stat()
    except OSError:
        return {}
    key = str(path), file.st_ino, file.st_mtime_ns
    if key not in _requests:
        from launch.spec.service_model import check_shape, service_model  # imports botocore, which jobs do not need

        operation = "CreateHyperParameterTuningJob" if is_tuning(folder) else "CreateTrainingJob"
        shape, request = service_model().operation_model(operation).input_shape, read_json(path)
        _requests[key] = {} if check_shape(shape, request) else request
    return _requests[key]


def _read_state_file(folder: Path) -> Json:
    """Returns the entries of state.json that are of the right type; {} if the file is damaged."""
    state = read_json(folder / STATE)
    valid = all(isinstance(state.get(key, kind()), kind) for key, kind in _STATE_TYPES.items())
    if not valid:
        return {}
    transitions, metrics = state.get("transitions", []), state.get("metrics", {}).values()
    complete = all(isinstance(entry, dict) and {"status", "start", "message"} <= set(entry) for entry in transitions)
    complete = complete and all(isinstance(metric, list) and len(metric) == 2 for metric in metrics)
    if not complete or state.get("pid", 2) < 2:  # a signal to process 0, 1 or -1 would end other processes
        return {}
    times = [state[key] for key in _TIMES if key in state] + [time for _, time in metrics]
    times += [entry[key] for entry in transitions for key in ("start", "end") if key in entry]
    return state if all(isinstance(time, (int, float)) and 0 <= time < MAX_TIME for time in times) else {}


def create_folder(folder: Path, request: Json, state: Json, log: str) -> int:
    """Creates a job's folder and returns the descriptor that holds its lock, to be passed to the supervisor.

    `log` is `LOG`, or `TUNER_LOG` for a tuning job.

    Raises:
        FileExistsError: The name is taken.
        OSError: The folder cannot be written; nothing is left of it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / log).touch()
            write_json(folder / STATE, state)
            write_json(folder / REQUEST, request)  # last: this file makes the folder a job
        except BaseException:
            os.close(lock)
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return lock


@contextmanager
def lock_if_free(folder: Path) -> Iterator[bool]:
    """Yields whether no process holds the folder's lock; if so, holds it inside the `with` block."""
    mode = fcntl.LOCK_EX
    try:
        try:
            lock = os.open(folder / LOCK, os.O_RDWR)  # NFS grants an exclusive lock only to a writable descriptor
        except PermissionError:  # another user's job: a shared lock conflicts with its holder's too
            lock, mode = os.open(folder / LOCK, os.O_RDONLY), fcntl.LOCK_SH
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(lock, mode | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(lock)


def job_arn(kind: str, name: str) -> str:
    """Returns the ARN of a resource on this machine, of kind `TRAINING`, `TUNING`, `endpoint`, `model`, ..."""
    return f"arn:aws:sagemaker:local:{ACCOUNT}:{kind}/{name}"


def new_state(kind: str, name: str, command: Sequence[str], stop_grace_s: float, **more: Any) -> Json:
    """Returns the initial state of a job of kind `TRAINING` or `TUNING`, with `more` entries."""
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
    """Returns whether the folder belongs to a tuning job, even if its JSON files are unreadable."""
    return (folder / TUNER_LOG).exists()


def is_job(folder: Path) -> bool:
    """Returns whether the folder holds a job that this user may read."""
    try:
        return (folder / REQUEST).exists()
    except OSError:
        return False


_final_states: dict[tuple[str, int, int], Json] = {}
"""States of ended jobs, which do not change, by folder, inode and modification time of state.json."""


def read_state(folder: Path) -> Json:
    """Returns the state of a job, with defaults for missing entries; records Failed if its supervisor died."""
    key = None
    with suppress(OSError):
        file = (folder / STATE).stat()
        key = str(folder), file.st_ino, file.st_mtime_ns
        if key in _final_states:
            return dict(_final_states[key])
    created = folder.stat().st_mtime
    state = {
        "name": folder.name,
        "arn": job_arn(TUNING if is_tuning(folder) else TRAINING, folder.name),
        "status": "InProgress",
        "secondary": "Starting",
        "created": created,
        "modified": created,
        **read_supervised(folder, FINAL, lambda state: _lost(folder, state)),
    }
    if state["status"] not in FINAL and (folder / STOP).exists():
        state.update(status="Stopping", secondary="Stopping")
    if is_tuning(folder.parent):
        state["tuning_arn"] = job_arn(TUNING, folder.parent.name)
    if key and state["status"] in FINAL and state.get("stopped_by") != "lost":
        _final_states[key] = dict(state)
    return state


def read_supervised(folder: Path, final: Collection[str], lost: Callable[[Json], Json]) -> Json:
    """Returns the content of state.json, after recording the loss of a supervisor that died before a final status.

    Args:
        folder: Folder of a job or an endpoint.
        final: Statuses that a supervisor records last.
        lost: Returns the state to record if the supervisor died, given the last one; ends what it left running.
    """
    state = _read_state_file(folder)
    if state.get("status") in final:
        return state
    with lock_if_free(folder) as orphaned:
        if not orphaned:
            return state
        state = _read_state_file(folder)  # it may have recorded its end just before it released the lock
        if state.get("status") in final or not (folder / REQUEST).exists():
            return state
        state = lost(state)
        with suppress(OSError):  # another user's folder is read-only
            write_json(folder / STATE, state)
    return state


def _lost(folder: Path, state: Json) -> Json:
    """Returns the state of a job whose supervisor died, and kills its training process."""
    kill_stray(state)
    log = folder / (TUNER_LOG if is_tuning(folder) else LOG)
    reason = f"InternalServerError: the supervisor process died (killed, or the machine stopped); see {log}"
    if not state:
        reason = f"InternalServerError: {folder / STATE} cannot be read"
    times = [file.stat().st_mtime for name in (STATE, LOG, TUNER_LOG) if (file := folder / name).exists()]
    ended = max(times, default=time.time())
    return {
        **state,
        "status": "Failed",
        "secondary": "Failed",
        "stopped_by": "lost",
        "failure": reason,
        "ended": ended,
        "modified": ended,
    }


def kill_stray(state: Json) -> None:
    """Kills the process group recorded in `state` unless its process id now belongs to another process."""
    pid, started = state.get("pid"), state.get("started")
    if not pid or not started:
        return
    import psutil

    with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        if abs(psutil.Process(pid).create_time() - started) < START_TOLERANCE_S:
            os.killpg(pid, signal.SIGKILL)


def request_stop(folder: Path, kind: str, reason: str) -> None:
    """Asks the supervisor of `folder` to stop the job; of several requests the first one counts.

    Args:
        folder: Folder of the job.
        kind: `user`, `early_stopping`, `sweep_completed` or `sweep_stopped`.
        reason: One sentence for the status message.
    """
    path = folder / STOP
    with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:  # "x": atomic, the first writer wins
        try:
            json.dump({"kind": kind, "reason": reason}, file)
            file.flush()
        except OSError:  # a full disk: leave no empty request that would block the next one
            path.unlink(missing_ok=True)
            raise
