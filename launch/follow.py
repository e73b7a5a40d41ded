"""Watches a sweep until it ends, tells what happens, and stops it when asked to."""

from __future__ import annotations

import signal
import time
import types
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from launch.results import ENDED, Sweep, read_sweep
from launch.show import progress_line, trial_line


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


def follow(client: Any, name: str, out: Console, poll_s: float) -> tuple[Sweep, signal.Signals | None]:
    """Follows sweep `name` to its end, a line for each trial that ends; Ctrl-C or SIGTERM stops it first.

    Args:
        client: boto3's sagemaker client.
        out: where the lines go; a terminal also gets a live line and a bar.
        poll_s: seconds between two looks.

    Returns:
        The sweep as it ended, and the signal that stopped it, if any.
    """
    started, told, stopping = time.monotonic(), set[str](), False
    with Interrupted() as interrupted, Live(console=out, refresh_per_second=4, transient=True) as live:
        while True:
            sweep = read_sweep(client, name)
            own = [trial for trial in sweep.trials if trial.name.startswith(f"{name}-")]
            told |= {trial.name for trial in sweep.trials if trial not in own}
            for trial in own:
                if trial.status in ENDED and trial.name not in told:
                    told.add(trial.name)
                    out.print(trial_line(trial, len(told), sweep), soft_wrap=True)
            if sweep.ended:
                return sweep, interrupted.signal
            if interrupted.signal and not stopping:
                stopping = True
                out.print(f"{interrupted.signal.name}: stopping; finished trials are kept. Once more: leave at once")
                client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
            if out.is_terminal:
                live.update(_bar(sweep, time.monotonic() - started))
            _wait(poll_s, interrupted, stopping)


def _wait(seconds: float, interrupted: Interrupted, stopping: bool) -> None:
    """Sleeps, but wakes up at once when asked to stop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (stopping or not interrupted.signal):
        time.sleep(min(0.1, seconds))


def _bar(sweep: Sweep, elapsed_s: float) -> Table:
    done = sum(trial.status in ENDED for trial in sweep.trials)
    parallel = max(1, sum(trial.status == "InProgress" for trial in sweep.trials))
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=sweep.max_jobs, completed=done, width=24), progress_line(sweep, elapsed_s, parallel))
    return grid
