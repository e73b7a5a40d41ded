"""The base of the supervisor processes that watch a training job, a tuning job or an endpoint."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from launch.local.job_store import LOCK, REQUEST, STATE, Json, read_json, write_json
from launch.local.jobs.process import Descriptor, redirect_output


class Supervisor:
    """Watches the job in `folder`, whose lock is held by the descriptor `lock`.

    Attributes:
        request: The API request that created the job.
        state: Its state, which no other process writes.
    """

    def __init__(self, folder: Path, lock: int):
        self.folder = folder
        self.request: Json = read_json(folder / REQUEST)
        self.state: Json = read_json(folder / STATE)
        self._lock = lock
        self._terminated = False
        self._lock_inode = os.fstat(lock).st_ino

    def run(self) -> None:
        """Runs the job to its end."""
        raise NotImplementedError

    def _listen(self) -> None:
        """From here on SIGTERM sets `_terminated` instead of ending this process."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self.state["supervisor_pid"] = os.getpid()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _check_folder(self) -> None:
        """Raises FileNotFoundError if the folder was removed, even if another job has taken its name."""
        if (self.folder / LOCK).stat().st_ino != self._lock_inode:
            raise FileNotFoundError(errno.ENOENT, "the folder was removed, and another job has its name", self.folder)

    def _save(self, **changes: object) -> None:
        self._check_folder()
        self.state.update(changes, modified=time.time())
        write_json(self.folder / STATE, self.state)


def supervise(kind: type[Supervisor]) -> None:
    """Runs the job whose folder and lock are on the command line: `FOLDER LOCK`."""
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(lock, False)
    try:
        kind(folder, lock).run()
    finally:
        os.close(lock)  # before Python waits for child processes: they end when their owner's lock is free


def supervise_fork(kind: type[Supervisor], folder: Path, lock: Descriptor, log: str) -> None:
    """Runs the job in `folder` in this process, a fork of the fork server, as `start_supervisor` would."""
    os.setsid()
    redirect_output(folder / log)
    kind(folder, lock.number).run()
