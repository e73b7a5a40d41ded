"""What the process that watches over a job, of either kind, starts with."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from launch.local.job_store import LOCK, REQUEST, STATE, read_json, redirect, write_json


class Supervisor:
    """The job in `folder`, whose lock this process holds: its request, and its state, which it alone writes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.request: dict[str, Any] = read_json(folder / REQUEST)
        self.state: dict[str, Any] = read_json(folder / STATE)
        self._told_to_end = False
        self._lock_inode = (folder / LOCK).stat().st_ino  # while it is held no other file has it

    def run(self) -> None:
        """Runs the job to its end."""
        raise NotImplementedError

    def _listen(self) -> None:
        """Notes from here on that SIGTERM came, in place of ending."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self.state["supervisor_pid"] = os.getpid()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._told_to_end = True

    def _check_folder(self) -> None:
        """Raises FileNotFoundError where the folder was removed under the job, and perhaps made anew by another."""
        if (self.folder / LOCK).stat().st_ino != self._lock_inode:
            raise FileNotFoundError(errno.ENOENT, "the folder was removed, and another job has its name", self.folder)

    def _save(self, **changes: Any) -> None:
        self._check_folder()
        self.state.update(changes, modified=time.time())
        write_json(self.folder / STATE, self.state)


def supervise(kind: type[Supervisor]) -> None:
    """Runs the job whose folder and descriptors the command line names: `FOLDER LOCK`, and what more `kind` takes."""
    _, *given = descriptors = [int(text) for text in sys.argv[2:]]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    kind(Path(sys.argv[1]), *given).run()


def fork_supervisor(kind: type[Supervisor], folder: Path, lock: int, log: str) -> int:
    """Runs the job in `folder` in a fork of this process, which has imported all that is needed; returns its pid.

    As `start_supervisor` it gets a session of its own and the folder's lock. Of what this process holds it keeps
    nothing open: a lock, or the pipe of a warm server, says that this process lives.
    """
    sys.stdout.flush()
    if pid := os.fork():
        os.close(lock)
        return pid
    status = 1
    try:
        os.setsid()
        redirect(folder / log)
        os.closerange(3, lock)
        os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))
        kind(folder).run()
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the code of the process that was forked
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
