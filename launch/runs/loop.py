"""Starts a sweep or a training, follows it to its end and reports the outcome."""

from __future__ import annotations

from collections.abc import Callable
from signal import Signals
from typing import Protocol

from omegaconf import DictConfig
from rich.console import Console

from launch.backends import Backend
from launch.backends.aws.errors import api_errors
from launch.runs.polling import Interrupted, Pollable, follow


class Run(Pollable, Protocol):
    """A sweep or a training that can be followed."""

    name: str

    @property
    def ended(self) -> bool:
        """Whether it had ended when it was polled last."""

    def finish(self) -> int:
        """Prints the outcome and writes result files; returns 0, or 1 if there is no result."""

    def resume_hint(self) -> str:
        """Returns a line with the command that resumes it after it was stopped; empty if there is none."""


def run_to_end(
    run: Run, cfg: DictConfig, backend: Backend, out: Console, create: Callable[[], bool] | None = None
) -> int:
    """Follows `run` to its end and prints the outcome.

    Args:
        run: What to follow.
        cfg: The config in use; makes the advice on API errors concrete.
        backend: Where it runs.
        out: The console.
        create: Sends the request that starts it and returns whether it is new; None if it exists. A signal detaches
            from a run that is not new.

    Returns:
        The exit status: 0, 1 if there is no result, or 128 + the signal that stopped or detached it.
    """
    detach = create is None or backend.detaches
    hint = still_running_hint(backend, run.name)
    with Interrupted() as interrupted:  # before the request, so that Ctrl-C during it is not lost
        if create is not None:
            new = create()
            detach = detach or not new
            elsewhere = backend.command_line("status", run.name)
            state = f"started {run.name}" if new else f"{run.name} runs already, with these very settings"
            out.print(f"\n{state}; see it from elsewhere: {elsewhere}", soft_wrap=True)
        with api_errors(cfg, hint):
            received = follow(run, out, backend.poll_s, detach=detach, interrupted=interrupted)
    with api_errors(cfg, hint):
        if received and detach and not run.ended:
            return print_detached(backend, run.name, received, out)
        status = run.finish()
    if received is None or create is None:
        return status
    if resume := run.resume_hint():
        out.print(resume, soft_wrap=True)
    return 128 + received


def still_running_hint(backend: Backend, name: str) -> str:
    """Returns what to add to an error that occurs after `name` was started: how to follow it again."""
    if not backend.detaches:
        return ""
    return f"; {name} keeps running, follow it: {backend.command_line('status', name, '--follow')}"


def print_detached(backend: Backend, name: str, received: Signals, out: Console) -> int:
    """Prints that `name` keeps running and how to follow or stop it; returns 128 + the signal."""
    out.print(f"{received.name}: detached; {name} keeps running", soft_wrap=True)
    out.print(f"  follow it: {backend.command_line('status', name, '--follow')}", soft_wrap=True)
    out.print(f"  stop it:   {backend.command_line('stop', name)}", soft_wrap=True)
    return 128 + received
