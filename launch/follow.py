"""Watches a sweep or a training until it ends and tells what happens; stops it, or leaves it, when asked to."""

from __future__ import annotations

import signal
import time
import types
from collections.abc import Callable
from typing import Any, TypeVar

from botocore import exceptions as boto
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from launch.errors import THROTTLED
from launch.logs import LogTail
from launch.results import ENDED, Sweep, read_sweep
from launch.show import progress_line, trial_line, trial_start_line

POLL_S = {"local": 0.5, "sagemaker": 10.0}
"""Seconds between two looks, by backend."""

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


def follow(
    client: Any, name: str, out: Console, poll_s: float, detach: bool = False
) -> tuple[Sweep | None, signal.Signals | None]:
    """Follows sweep `name` to its end, a line for each trial that ends; Ctrl-C or SIGTERM stops it first, or leaves it.

    Args:
        client: boto3's sagemaker client.
        out: where the lines go; a terminal also gets a live line and a bar.
        poll_s: seconds between two looks.
        detach: a signal ends the watching, and the sweep goes on.

    Returns:
        The sweep as it was seen last, and the signal that came, if any.
    """
    started, told, seen, stopping = time.monotonic(), set[str](), set[str](), False
    sweep, patient = None, Patient(out)
    with Interrupted() as interrupted, Live(console=out, refresh_per_second=4, transient=True) as live:
        while True:
            sweep = patient(lambda: read_sweep(client, name)) or sweep
            if sweep is not None:
                _tell(sweep, told, seen if detach else None, out)
                if sweep.ended:
                    return sweep, interrupted.signal
                if out.is_terminal:
                    live.update(_bar(sweep, time.monotonic() - started, hours=detach))
            if interrupted.signal and detach:
                return sweep, interrupted.signal
            if interrupted.signal and not stopping:
                stopping = True
                out.print(f"{interrupted.signal.name}: stopping; finished trials are kept. Once more: leave at once")
                client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
            _wait(poll_s, interrupted, stopping)


def _tell(sweep: Sweep, told: set[str], seen: set[str] | None, out: Console) -> None:
    """Prints a line for each trial that ended since the last look, and where `seen` is given that started."""
    own = sweep.own_trials
    told |= {trial.name for trial in sweep.trials if trial not in own}
    for trial in own:
        if seen is not None and trial.name not in seen:
            seen.add(trial.name)
            if trial.status not in ENDED:
                out.print(trial_start_line(trial), soft_wrap=True)
        if trial.status in ENDED and trial.name not in told:
            told.add(trial.name)
            out.print(trial_line(trial, len(told), sweep), soft_wrap=True)


def follow_training(
    client: Any, name: str, log: LogTail, out: Console, *, poll_s: float, detach: bool = False
) -> tuple[dict[str, Any] | None, signal.Signals | None]:
    """Follows training job `name` to its end: what it is doing, and its log. Signals as in `follow`.

    Returns:
        The job as it was described last, and the signal that came, if any.
    """
    told, stopping, job, patient = 0, False, None, Patient(out)
    with Interrupted() as interrupted:
        while True:
            job = patient(lambda: client.describe_training_job(TrainingJobName=name)) or job
            ended = job is not None and job["TrainingJobStatus"] in ENDED
            for line in patient(log.read) or []:
                out.print(line, soft_wrap=True, markup=False)
            transitions = [] if job is None else job.get("SecondaryStatusTransitions", [])
            for entry in transitions[told:]:
                out.print(
                    f"[{entry['Status']}] {entry.get('StatusMessage', '')}".rstrip(), soft_wrap=True, markup=False
                )
            told = len(transitions)
            if ended or (interrupted.signal and detach):
                return job, interrupted.signal
            if interrupted.signal and not stopping:
                stopping = True
                out.print(f"{interrupted.signal.name}: stopping; its last checkpoint is kept. Once more: leave at once")
                client.stop_training_job(TrainingJobName=name)
            _wait(poll_s, interrupted, stopping)


def _wait(seconds: float, interrupted: Interrupted, stopping: bool) -> None:
    """Sleeps, but wakes up at once when asked to stop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (stopping or not interrupted.signal):
        time.sleep(min(0.1, seconds))


def _bar(sweep: Sweep, elapsed_s: float, hours: bool) -> Table:
    done = sum(trial.status in ENDED for trial in sweep.trials)
    parallel = max(1, sum(trial.status == "InProgress" for trial in sweep.trials))
    grid = Table.grid(padding=(0, 1))
    line = progress_line(sweep, elapsed_s, parallel)
    line += f", {sweep.billable_hours:.2f} instance-hours so far" if hours else ""
    grid.add_row(ProgressBar(total=sweep.max_jobs, completed=done, width=24), line)
    return grid
