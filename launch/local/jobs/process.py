"""Processes of jobs: forked by a warm server (`launch.local.jobs.forkserver`), or new ones.

`launch.tune` starts the server of its sweep before it makes the request, else the tuner does. The supervisor of a
job asks it for the job's process, which lives under the same contract as one that was started anew: own session,
environment, log, signals, exit status. Where the server has crashed, processes are started anew.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from launch.local.job_store import with_launch_on_path

ENTRY = [sys.executable, "-m", "launch.container.entry"]
"""The one command whose processes can be warm."""

START_S = 60.0
"""How long a job waits for a server that still imports: it would have to import the same itself."""


class Process(Protocol):
    """What the watcher of a job uses of `subprocess.Popen`."""

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""

    @property
    def returncode(self) -> Any:
        """Exit status, negative for a signal; None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status; raises `subprocess.TimeoutExpired` where there is none in time."""


class WarmServer:
    """The server of one sweep, seen from the tuner.

    Attributes:
        address: Where it is asked; None where the jobs cannot be warm.
        pipe: Descriptor of what it reads; it ends once nobody holds this any more. None where there is no server.
    """

    def __init__(self, address: str | None, pipe: int | None, process: subprocess.Popen[bytes] | None = None) -> None:
        self.address = address
        self.pipe = pipe
        self._process = process

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> WarmServer:
        """Starts the server.

        Args:
            command: What the sweep's jobs run.
            environment: Variables that the request gives to its jobs.
        """
        if list(command) != ENTRY:
            return cls(None, None)
        # Not in the sweep's folder: the path of a socket may have 103 characters. Scratch folders have more at times.
        place = "/tmp" if len(os.fsencode(tempfile.gettempdir())) > 80 else None
        address = str(Path(tempfile.mkdtemp(prefix="dogbreed-", dir=place)) / "warm")
        with socket.socket(socket.AF_UNIX) as listener:  # from here on who asks is answered, or refused
            listener.bind(address)
            listener.listen(128)
            process = subprocess.Popen(
                [*ENTRY[:2], "launch.local.jobs.forkserver", str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                env=with_launch_on_path({**os.environ, **environment}),
            )
        assert process.stdin is not None
        with process.stdin:
            return cls(address, os.dup(process.stdin.fileno()), process)

    def end(self) -> None:
        """Ends the server that this process has started, in the middle of its imports too."""
        assert self.address is not None and self._process is not None
        self._process.kill()
        self._process.wait()
        shutil.rmtree(Path(self.address).parent, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Lets go of the server, which ends then; jobs that still run are left to their watchers."""
        if self.pipe is not None:
            os.close(self.pipe)


_ahead: list[WarmServer] = []


@contextmanager
def server_ahead(wanted: bool) -> Iterator[None]:
    """Starts the server of the sweep that will be asked for inside: its imports take longer than all until then.

    Args:
        wanted: False: none is started.
    """
    if wanted:
        _ahead.append(WarmServer.start(ENTRY, {}))
    try:
        yield
    finally:
        end_ahead()


def end_ahead() -> None:
    """Ends the server that was started ahead, if no sweep has taken it."""
    while _ahead:
        _ahead.pop().end()


def take_ahead(command: Sequence[str], environment: Mapping[str, str]) -> WarmServer:
    """Returns the server that was started ahead, once, if it suits these jobs (arguments as of `WarmServer.start`).

    Where there is none, what is returned has no address and no pipe. One that does not suit is ended.
    """
    if _ahead and list(command) == ENTRY and not environment:
        return _ahead.pop()
    end_ahead()
    return WarmServer(None, None)


class WarmProcess:
    """A job's process, seen from its watcher; raises `OSError` or `ValueError` where the server does not answer.

    Args:
        address: Of the server.
        job: Environment, log and working folder.
    """

    def __init__(self, address: str, job: Mapping[str, Any]) -> None:
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            self._connection.settimeout(START_S)
            self._connection.connect(address)
            self._connection.sendall(json.dumps(job).encode() + b"\n")
            self._answers = self._connection.makefile("rb")
            self.pid = int(self._answers.readline())
        except BaseException:
            self._connection.close()
            raise

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: there is none in time.
        """
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(ENTRY, timeout or 0)
            answer = self._answers.readline()
            if not answer:  # the server is gone, and nobody else would learn how the process ends
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self.returncode = int(answer or -signal.SIGKILL)
            self._connection.close()
        return self.returncode


def start_process(address: str | None, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Process:
    """Starts a job's process in a session of its own: warm if the server at `address` answers, else anew.

    Raises:
        OSError: the command cannot be started.
    """
    if address is not None:
        job = {"environment": dict(environment), "log": str(log.absolute()), "folder": str(Path.cwd())}
        with suppress(OSError, ValueError):
            return WarmProcess(address, job)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
