"""A job's folder: what is in it and who holds it.

A folder is made once (`mkdir` decides between two creators) and its lock is held from then until the supervisor process
ends, however it ends: the kernel lets go of an `flock` with the process. So a free lock under an unfinished job means
that its supervisor died, without any guess about process ids. Whoever holds the lock writes `state.json`; anybody may
write `stop.json`, which asks the holder to stop the job.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REQUEST = "request.json"
STATE = "state.json"
STOP = "stop.json"
TAGS = "tags.json"
METRICS = "metrics.jsonl"
LOG = "log.txt"
TUNER_LOG = "tuner.log"
LOCK = ".lock"

Json = dict[str, Any]


def write_json(path: Path, content: Json) -> None:
    """Writes `content` so that a reader sees the old file or the new one, never half of it."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        scratch.write_text(json.dumps(content, indent=1), encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_json(path: Path) -> Json:
    """Returns the object in `path`, or {} where the file is missing, unreadable or no JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def make_folder(folder: Path, request: Json, state: Json, log: str) -> int:
    """Makes a job's folder and returns the descriptor that holds its lock; to be handed to the supervisor.

    Args:
        folder: where; its parent is made too.
        request: the request of the job.
        state: what is known of it at the start.
        log: `LOG` for a training job, `TUNER_LOG` for a tuning job; it tells the two apart.

    Raises:
        FileExistsError: the name is taken.
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / log).touch()
        write_json(folder / STATE, state)
        write_json(folder / REQUEST, request)  # last: a folder counts as a job from here on
    except BaseException:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)  # a full disk: the name stays free for another try
        raise
    return lock


def start_supervisor(module: str, folder: Path, lock: int, log: str, *given: int) -> subprocess.Popen[bytes]:
    """Starts `python -m module FOLDER LOCK GIVEN` in a session of its own and hands it the folder's lock.

    A session of its own: Ctrl-C and a closed terminal do not reach it. With the lock go other `given` descriptors.
    """
    try:
        with (folder / log).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, str(folder), str(lock), *map(str, given)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock, *given],
                start_new_session=True,
                env=with_launch_on_path(os.environ),
            )
    finally:
        os.close(lock)


def redirect(log: Path) -> None:
    """Has this process, just forked, write to the end of `log`, and read nothing."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, target)


def with_launch_on_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment in which Python finds this very `launch`, from any folder."""
    home = str(Path(__file__).resolve().parents[2])
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    return {**environment, "PYTHONPATH": os.pathsep.join([home, *(path for path in paths if path not in {"", home})])}


@contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Yields whether no process holds the folder's lock; if so, it is held meanwhile."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(lock)
