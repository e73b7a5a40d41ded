"""Follows a sweep or a training until it ends, with patience; stops it, or leaves it, when asked to."""

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

from launch.backends.aws.errors import THROTTLED

PASSING = (boto.HTTPClientError, boto.EndpointConnectionError, boto.ConnectionError)
"""Errors of the network between here and AWS: the jobs know nothing of them."""

T = TypeVar("T")


class Interrupted:
    """Turns Ctrl-C and SIGTERM into a flag while it is entered; a second one is let through.

    Attributes:
        signal: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Interrupted:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._before[self.signal])


class Patient:
    """Asks AWS again at the next look where it throttles or does not answer: what runs there goes on meanwhile.

    Args:
        out: where it is said, once for each time that AWS falls silent.
    """

    def __init__(self, out: Console) -> None:
        self._out = out
        self._silent = False

    def __call__(self, ask: Callable[[], T]) -> T | None:
        """Returns the answer, or None where there is none now."""
        try:
            answer = ask()
        except (*PASSING, boto.ClientError) as error:
            if isinstance(error, boto.ClientError):
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                if error.response["Error"]["Code"] not in THROTTLED and status < 500:
                    raise
            if not self._silent:
                self._out.print(f"no answer for now ({error}); asking again, the jobs go on", soft_wrap=True)
            self._silent = True
            return None
        if self._silent:
            self._out.print("AWS answers again")
        self._silent = False
        return answer


class Watched(Protocol):
    """A sweep or a training, for `follow`."""

    @property
    def kept(self) -> str:
        """What is left of it where it is stopped, in words."""

    def look(self) -> bool:
        """Asks how it is and tells what is new; returns whether it has ended."""

    def image(self) -> RenderableType:
        """Returns how it is now, for a terminal to show until the next look."""

    def stop(self) -> None:
        """Asks for its end."""


def follow(
    watched: Watched, out: Console, poll_s: float, detach: bool = False, interrupted: Interrupted | None = None
) -> signal.Signals | None:
    """Follows what is `watched` to its end; Ctrl-C or SIGTERM stops it first, or leaves it.

    Args:
        watched: prints what is new at each look.
        out: where that goes; a terminal also gets a live image.
        poll_s: seconds between two looks.
        detach: a signal ends the watching, and what is watched goes on.
        interrupted: notes signals already, from before what is watched was started.

    Returns:
        The signal that came, if any.
    """
    stopping = False
    signals = nullcontext(interrupted) if interrupted else Interrupted()
    with signals as noted, Live(console=out, refresh_per_second=4, transient=True) as live:
        while True:
            if watched.look() or (noted.signal and detach):
                return noted.signal
            if out.is_terminal:
                live.update(watched.image())
            if noted.signal and not stopping:
                stopping = True
                out.print(f"{noted.signal.name}: stopping; {watched.kept}. Once more: leave at once")
                watched.stop()
            _wait(poll_s, noted, stopping)


def _wait(seconds: float, interrupted: Interrupted, stopping: bool) -> None:
    """Sleeps, but wakes up at once when asked to stop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (stopping or not interrupted.signal):
        time.sleep(min(0.1, seconds))
