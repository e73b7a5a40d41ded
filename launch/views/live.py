"""A running sweep: the lines that are printed, and the live view on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launch.runs.results import Sweep, Trial
from launch.spec.naming import TERMINAL, short_name
from launch.views.tables import failure_reason
from launch.views.text import brief, decimal, duration


@dataclass
class EpochProgress:
    """Progress of a running trial, from its log."""

    epoch: int
    """Epochs finished."""
    objective: float
    """Last value of the objective."""


def trial_line(trial: Trial, done: int, sweep: Sweep, shown: dict[str, str]) -> str:
    """Returns the line printed when a trial ends, the `done`th: `3/6  val/accuracy 0.8125  lr=0.00123  21 s`."""
    result = "" if trial.objective is None else f"{sweep.metric} {decimal(trial.objective)}"
    result = result if trial.status == "Completed" else f"{trial.status} {result}".rstrip()
    reason = f"  {failure_reason(trial, shown)}" if trial.reason else ""
    return f"{done:>3}/{sweep.max_jobs}  {result}  {point_text(trial)}  {duration(trial.seconds)}{reason}"


def trial_status_line(trial: Trial) -> str:
    """Returns the line printed when a trial on AWS starts or is being stopped: `    002 started  lr=0.00123`."""
    status = {"InProgress": "started"}.get(trial.status, trial.status.lower())
    return f"{short_name(trial.name):>7} {status}  {point_text(trial)}"


def point_text(trial: Trial) -> str:
    """Returns the hyperparameters of a trial: `lr=0.00123 model=resnet34`."""
    return " ".join(f"{key}={brief(value)}" for key, value in trial.hyperparameters.items())


def live_view(sweep: Sweep, epochs: Mapping[str, EpochProgress], with_hours: bool) -> RenderableType:
    """Returns a progress bar over the sweep and one row per running trial; `epochs` is the progress by trial name."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("trial", "epoch", sweep.metric, "time"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("hyperparameters", overflow="fold")
    for trial in sweep.own_trials:
        if trial.status in TERMINAL:
            continue
        progress = epochs.get(trial.name)
        total = num_epochs(sweep, trial)
        epoch = "-" if progress is None else f"{progress.epoch}/{total}" if total else str(progress.epoch)
        objective = decimal(progress.objective if progress else None)
        table.add_row(short_name(trial.name), epoch, objective, duration(trial.seconds), Text(point_text(trial)))
    line = progress_line(sweep, epochs)
    line += f", {sweep.billable_hours:.2f} instance-hours so far" if with_hours else ""
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=sweep.max_jobs, completed=work_done(sweep, epochs), width=24), line)
    return Group(bar, table) if table.row_count else bar


def work_done(sweep: Sweep, epochs: Mapping[str, EpochProgress]) -> float:
    """Returns the trials that have ended, plus the fraction of each running trial that is done."""
    done = 0.0
    for trial in sweep.trials:
        total, progress = num_epochs(sweep, trial), epochs.get(trial.name)
        if trial.status in TERMINAL:
            done += 1
        elif total and progress:
            done += min(1.0, progress.epoch / total)
    return done


def num_epochs(sweep: Sweep, trial: Trial) -> int | None:
    """Returns the epochs that a trial trains for; None if neither the sweep nor the trial sets them."""
    fixed = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in sweep.fixed)}
    given = trial.hyperparameters.get("epochs", fixed.get("epochs", ""))
    return int(given) if given.isdigit() else None


def progress_line(sweep: Sweep, epochs: Mapping[str, EpochProgress] | None = None) -> str:
    """Returns trials done and running, the best objective so far (running trials count), elapsed and remaining time."""
    done = [t for t in sweep.trials if t.status in TERMINAL]
    running = [t for t in sweep.trials if t.status not in TERMINAL]
    objectives = [t.objective for t in sweep.trials if t.objective is not None]
    objectives += [progress.objective for progress in (epochs or {}).values()]
    best = (max if sweep.maximize else min)(objectives, default=None)
    best_text = "none yet" if best is None else f"{sweep.metric} {decimal(best)}"
    remaining = time_left(done, running, sweep.max_jobs)
    eta = "" if remaining is None else f", about {duration(remaining)} left"
    return (
        f"{len(done)}/{sweep.max_jobs} done, {len(running)} running, best {best_text}, {duration(sweep.seconds)}{eta}"
    )


def time_left(done: list[Trial], running: list[Trial], max_jobs: int) -> float | None:
    """Returns the estimated seconds until a sweep ends; None before its first trial has completed.

    Assumes that all trials take the mean time of the completed ones, as many in parallel as run now.
    """
    times = [t.seconds for t in done if t.status == "Completed" and t.seconds]
    if not times:
        return None
    mean = sum(times) / len(times)
    work = max(0, max_jobs - len(done)) * mean - sum(min(mean, t.seconds or 0) for t in running)
    return max(0.0, work / max(1, len(running)))
