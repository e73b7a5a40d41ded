"""Polls a job or an endpoint until it ends; Ctrl-C stops it or detaches from it."""

from __future__ import annotations

import signal
import time
import types
from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol, TypeVar

from botocore import exceptions as boto
from rich.console import Console, RenderableType
from rich.live import Live

from launch.backends.aws.errors import NETWORK_ERRORS, THROTTLED

T = TypeVar("T")


class Interrupted:
    """Records the first Ctrl-C or SIGTERM inside the `with` block; the second one has its usual effect.

    Attributes:
        signal: The recorded signal, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Interrupted:
        self._handlers = {number: signal.signal(number, self._record) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: types.FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._handlers[self.signal])


class RetryingPoller:
    """Tolerates throttling and network errors while polling; prints when AWS stops responding and when it is back."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._failing = False

    def __call__(self, request: Callable[[], T]) -> T | None:
        """Returns the response of `request`, or None if there is none this time.

        Raises:
            ClientError: AWS rejects the request for another reason than throttling.
        """
        try:
            response = request()
        except (*NETWORK_ERRORS, boto.ClientError) as error:
            if isinstance(error, boto.ClientError) and not _is_transient(error):
                raise
            if not self._failing:
                self._out.print(f"AWS is not responding ({error}); retrying, jobs keep running", soft_wrap=True)
            self._failing = True
            return None
        if self._failing:
            self._out.print("AWS is responding again")
        self._failing = False
        return response


def _is_transient(error: boto.ClientError) -> bool:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return error.response["Error"]["Code"] in THROTTLED or status >= 500


class Pollable(Protocol):
    """Something that runs and ends: a sweep, a training or an endpoint."""

    @property
    def kept_message(self) -> str:
        """What is preserved if it is stopped, as a clause."""

    def poll(self) -> bool:
        """Reads its state and prints what is new; returns whether it has ended."""

    def render(self) -> RenderableType:
        """Returns the live view of the state read last."""

    def stop(self) -> None:
        """Requests that it stops."""


def follow(
    job: Pollable, out: Console, poll_s: float, detach: bool = False, interrupted: Interrupted | None = None
) -> signal.Signals | None:
    """Polls `job` until it ends; on Ctrl-C or SIGTERM stops it first, or detaches.

    Args:
        job: Prints its news on each poll.
        out: The console; a terminal also shows the live view.
        poll_s: Seconds between two polls.
        detach: On a signal, return immediately and leave `job` running.
        interrupted: Records signals since before `job` was started; None: only from here on.

    Returns:
        The signal, if one was received.
    """
    stopping = False
    signals = nullcontext(interrupted) if interrupted else Interrupted()
    with signals as received, Live(console=out, refresh_per_second=4, transient=True) as live:
        while True:
            if job.poll() or (received.signal and detach):
                return received.signal
            if out.is_terminal:
                live.update(job.render())
            if received.signal and not stopping:
                stopping = True
                out.print(f"{received.signal.name}: stopping; {job.kept_message}. Press again to exit immediately")
                job.stop()
            _wait(poll_s, received, stopping)


def _wait(seconds: float, interrupted: Interrupted, stopping: bool) -> None:
    """Sleeps; returns early if a signal is received and `stopping` is False."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (stopping or not interrupted.signal):
        time.sleep(min(0.1, seconds))
