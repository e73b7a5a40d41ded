"""Processes of jobs: supervisors, and the training processes that they start and watch.

The trials of a sweep are forks of a server process that has imported the training code once (the standard library's
`multiprocessing.forkserver`), since importing it takes longer than training a head on cached features. Every other
process is a new interpreter.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver, reduction
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

MAX_REASON_CHARACTERS = 1024
"""Length to which SageMaker cuts a FailureReason."""


class Process(Protocol):
    """The part of `subprocess.Popen` that supervisors and the tuner use."""

    @property
    def pid(self) -> int:
        """Id of the process and of its process group."""

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while the process runs."""

    def wait(self) -> int:
        """Waits for the process to end and returns its exit code."""


class Fork:
    """A `multiprocessing` process as a `Process`.

    `multiprocessing` waits for a pipe to close, which also happens when the process replaces itself by `exec`; `poll`
    asks for the exit code instead.
    """

    def __init__(self, process: BaseProcess):
        process.start()
        assert process.pid is not None
        self.pid = process.pid
        self._process = process

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while the process runs."""
        return self._process.exitcode

    def wait(self) -> int:
        """Waits for the process to end and returns its exit code."""
        self._process.join()
        return int(self._process.exitcode or 0)


class Descriptor:
    """An open file descriptor that can be passed to a process of the fork server, where its `number` is another one."""

    def __init__(self, number: int):
        self.number = number

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.number)

    def __setstate__(self, duplicate: Any) -> None:
        self.number = duplicate.detach()


def start_fork_server(modules: Sequence[str]) -> None:
    """Starts this process's fork server, which imports `modules` in the background; it ends with its last user."""
    forkserver.set_forkserver_preload(list(modules))
    forkserver.ensure_running()


def fork_from_server(target: Callable[..., None], *args: Any) -> Process:
    """Calls `target(*args)` in a fork of the fork server, once that has imported its modules.

    Raises:
        OSError, EOFError: The server crashed.
    """
    return Fork(multiprocessing.get_context("forkserver").Process(target=target, args=args))


def fork_module(module: str, log: Path, environment: Mapping[str, str], private: int) -> Process:
    """Runs `python -m module` in a fork of this process, in a separate process group; its output goes to `log`.

    The fork closes the descriptor `private`, which only this process may hold.
    """
    context = multiprocessing.get_context("fork")
    gc.freeze()  # the fork need not traverse, and thereby copy, the objects that it shares with this process
    # The fork must not lose a SIGTERM to the handler that it inherits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = Fork(context.Process(target=_run_module, args=(module, log, dict(environment), private)))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with suppress(ProcessLookupError, PermissionError):
        os.setpgid(process.pid, process.pid)  # here too, so that the group exists when this function returns
    return process


def _run_module(module: str, log: Path, environment: Mapping[str, str], private: int) -> None:
    os.setpgid(0, 0)
    os.close(private)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    redirect_output(log)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def start_process(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts `command` in a separate session; its output is appended to `log`, its input is empty.

    Raises:
        OSError: The command cannot be started.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )


def start_supervisor(module: str, folder: Path, lock: int, log: str) -> subprocess.Popen[bytes]:
    """Starts `python -m module FOLDER LOCK` and passes it the folder's lock.

    It runs in a separate session, so Ctrl-C and a closed terminal do not reach it.
    """
    try:
        with (folder / log).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, str(folder), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                start_new_session=True,
                env=with_launch_on_path(os.environ),
            )
    finally:
        os.close(lock)


def redirect_output(log: Path) -> None:
    """Appends the standard output and error of this process to `log`, line by line, and empties its input."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, target)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def with_launch_on_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment in which Python finds this copy of `launch` from any folder."""
    home = str(Path(__file__).resolve().parents[3])
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    return {**environment, "PYTHONPATH": os.pathsep.join([home, *(path for path in paths if path not in {"", home})])}


def signal_group(process: Process, number: int) -> None:
    """Sends a signal to the process and its descendants in its group."""
    with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        os.killpg(process.pid, number)


def kill_group(process: Process) -> None:
    """Kills the process and its descendants in its group, as the end of a container does."""
    signal_group(process, signal.SIGKILL)
    process.wait()


def describe_exit(exit_code: int, log: Path) -> str:
    """Returns how a process ended and the last line of its log, for messages."""
    end = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    if exit_code in {-signal.SIGKILL, 128 + signal.SIGKILL}:
        end += " (by a user, or by the system because memory ran out)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4 * MAX_REASON_CHARACTERS))
        lines = file.read().decode("utf-8", "replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{end}; last line of the log: {last}" if last else end
