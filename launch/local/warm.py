"""Processes that are warm: a server that has imported everything once, and forks a job's process when it is asked to.

    python -m launch.local.warm SOCKET

SageMaker keeps instances warm between jobs; here it is the Python process, whose imports take longer than the training
of a head on kept features. The tuner starts one server for its sweep, `launch.local.jobs` asks it for the process of
its job, which lives under the same contract as one that was started anew: own session, environment, log, signals, exit
status. The server ends with its standard input, that is with the tuner, however that ends. A job that crashes is the
crash of its own process alone; where the server has crashed, processes are started anew.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from launch.local.folder import redirect, with_launch_on_path

ENTRY = [sys.executable, "-m", "launch.entry"]
"""The one command whose processes can be warm."""

START_S = 60.0
"""How long a job waits for a server that still imports: it would have to import the same itself."""

POLL_S = 0.02

IMPORTS = (
    "torch.utils.serialization", "torch.utils.tensorboard", "torchvision.transforms.v2", "PIL.JpegImagePlugin",
    "dogbreed.debugger.callbacks", "dogbreed.debugger.report", "dogbreed.debugger.rules", "dogbreed.features",
    "dogbreed.train",
)  # fmt: skip


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
        address: Where it is asked; None where the jobs can not be warm.
        pipe: Descriptor of what it reads; it ends once nobody holds this any more.
    """

    def __init__(self, address: str | None, pipe: int | None) -> None:
        self.address = address
        self.pipe = pipe

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> WarmServer:
        """Starts the server.

        Args:
            command: What the sweep's jobs run.
            environment: Variables that the request gives to its jobs.
        """
        if list(command) != ENTRY:
            return cls(None, None)
        # Not in the sweep's folder: the path of a socket may have 103 characters.
        address = str(Path(tempfile.mkdtemp(prefix="dogbreed-")) / "warm")
        with socket.socket(socket.AF_UNIX) as listener:  # from here on who asks is answered, or refused
            listener.bind(address)
            listener.listen(128)
            process = subprocess.Popen(
                [*ENTRY[:2], "launch.local.warm", str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                env=with_launch_on_path({**os.environ, **environment}),
            )
        assert process.stdin is not None
        with process.stdin:
            return cls(address, os.dup(process.stdin.fileno()))

    def close(self) -> None:
        """Lets go of the server, which ends then; jobs that still run are left to their watchers."""
        if self.pipe is not None:
            os.close(self.pipe)


_ahead: list[WarmServer] = []


def start_ahead() -> None:
    """Starts the server of the sweep that this process will ask for: its imports take longer than all until then."""
    _ahead.append(WarmServer.start(ENTRY, {}))


def take_ahead(command: Sequence[str], environment: Mapping[str, str]) -> WarmServer | None:
    """Returns the server that was started ahead, once, if it suits these jobs (arguments as of `WarmServer.start`)."""
    return _ahead.pop() if _ahead and list(command) == ENTRY and not environment else None


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
        OSError: the command can not be started.
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


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Forks a process for each job that is asked for, and answers with its pid and later with its exit status.

    Returns:
        In each forked process, its job; in the server None, once standard input has ended and no job is left.
    """
    jobs: dict[int, socket.socket] = {}
    sources: list[Any] = [listener, sys.stdin]
    while jobs or sys.stdin in sources:
        ready = select.select(sources, [], [], POLL_S if jobs else None)[0]
        if sys.stdin in ready:
            sources.remove(sys.stdin)
        if listener in ready:
            connection, _ = listener.accept()
            with suppress(OSError, ValueError):  # whoever asked was killed meanwhile
                connection.settimeout(1.0)
                job = json.loads(connection.makefile("rb").readline())
                if (pid := os.fork()) == 0:
                    os.setsid()
                    connection.sendall(b"%d\n" % os.getpid())  # only now can its group be signalled
                    for item in (listener, connection, *jobs.values()):
                        item.close()
                    return dict(job)
                jobs[pid] = connection
        for pid in list(jobs):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with suppress(OSError), jobs.pop(pid) as connection:
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    return None


def run(job: Mapping[str, Any]) -> int:
    """Makes this forked process the job's, runs `launch.entry` and returns the exit status."""
    os.chdir(job["folder"])
    redirect(Path(job["log"]))
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]  # PYTHONUNBUFFERED came too late
    import torch

    from launch import entry

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = ["launch.entry"]
    return entry.main()


def import_all() -> None:
    """Imports what trainings need. Nothing may compute here: a fork has none of torch's threads."""
    gc.disable()  # nothing of a module is garbage, and to look for it takes a tenth of the imports' time
    from dogbreed.config import compose

    for name in IMPORTS:
        if select.select([sys.stdin], [], [], 0)[0]:
            return  # the tuner has ended already
        importlib.import_module(name)
    from dogbreed.debugger.report import page_template

    compose("train", [])
    page_template()
    gc.freeze()  # what is not looked at again is not copied again
    gc.set_threshold(50_000)  # at 700 new objects, as is usual, looking for garbage takes a tenth of a short training
    gc.enable()


def main() -> None:
    """Serves; in a forked process, runs its job."""
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        import_all()
        job = serve(listener)
        if job is None:
            shutil.rmtree(Path(listener.getsockname()).parent, ignore_errors=True)  # also where the tuner was killed
    status = 0 if job is None else run(job)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)  # taking a thousand shared modules apart, one page after the other, would only be work


if __name__ == "__main__":
    main()
