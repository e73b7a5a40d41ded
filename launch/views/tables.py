"""What people see of plans, sweeps and jobs in a terminal."""

from __future__ import annotations

import math
import sys

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launch.backends import Backend
from launch.backends.aws.errors import explain_failure
from launch.runs.results import Sweep, Trial
from launch.spec.naming import TERMINAL, short_name
from launch.spec.plan import Plan

STYLES = {"Completed": "green", "Failed": "red", "Stopped": "yellow", "Stopping": "yellow", "InProgress": "cyan"}
"""Colour of each status."""


def console(stderr: bool = False) -> Console:
    """Returns the console to print on; a file or a pipe gets lines of 120 characters, no colours.

    What it prints is people's own text (paths, reasons of failures), so brackets and colons mean nothing in it.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 120
    return Console(width=width, stderr=stderr, highlight=False, markup=False, emoji=False)


def plan_table(plan: Plan, backend: Backend) -> Table:
    """Returns what will be done, before it is done: data, weights, search space, jobs, the bound on instance-hours."""
    cfg, instance = plan.cfg, plan.cfg.instance
    table = Table(title=f"sweep {plan.name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if plan.app is None:
        table.add_row("data", str(cfg.data.url))
        table.add_row("weights", f"{cfg.model.weights}, finetune {cfg.finetune}, {cfg.epochs} epochs")
    else:
        table.add_row("runs", plan.app)
    table.add_row("fixed", " ".join(plan.fixed) or "all defaults")
    for r in plan.ranges:
        table.add_row(f"search {r.key}", str(r))
    for point in plan.first if backend.takes_first_points else ():
        table.add_row("tried first", " ".join(f"{name}={value}" for name, value in point.items()))
    space = "" if plan.combinations is None else f" of {plan.combinations} combinations"
    table.add_row("objective", f"{cfg.objective.goal} {cfg.objective.metric}")
    table.add_row("jobs", f"{plan.max_jobs}{space}, {plan.max_parallel_jobs} at a time, {cfg.tuner.strategy}")
    table.add_row(
        "runs on", f"{backend.describe_instances(cfg)}; at most {bound(plan.bound_hours, instance.price_per_hour)}"
    )
    return table


def bound(hours: float, price: float | None) -> str:
    """Returns what is not exceeded: `12 instance-hours, 2.76 at 0.23 an hour`."""
    return f"{hours:g} instance-hours" + ("" if price is None else f", {hours * price:.2f} at {price:g} an hour")


def sweep_table(sweep: Sweep) -> Table:
    """Returns one line a trial, best first, with its hyperparameters, objective and, where it failed, the reason."""
    keys = list(dict.fromkeys(key for trial in sweep.trials for key in trial.hyperparameters))
    names = [n for n in ("val/accuracy", "val/loss", "test/accuracy") if any(n in t.metrics for t in sweep.trials)]
    extra = [name for name in names if name != sweep.metric]
    table = Table(title=f"sweep {sweep.name}: {sweep.status}", title_justify="left")
    table.add_column("trial", no_wrap=True)
    table.add_column("status")
    for key in keys:
        table.add_column(key, justify="right")
    for name in [sweep.metric, *extra, "time"]:
        table.add_column(name, justify="right")
    failed = any(trial.reason for trial in sweep.trials)
    if failed:
        table.add_column("reason", overflow="fold")
    found = any(trial.findings for trial in sweep.trials)
    if found:
        table.add_column("findings", overflow="fold")
    best = sweep.best
    told: dict[str, str] = {}
    for trial in sweep.ranked:
        cells = [brief(trial.hyperparameters.get(key, "")) for key in keys]
        numbers = [decimal(trial.objective), *(decimal(trial.metrics.get(name)) for name in extra)]
        reason = [Text(reason_of(trial, told))] if failed else []
        notes = [*reason, Text(" ".join(trial.findings))] if found else reason
        status = Text(trial.status, style=STYLES.get(trial.status, ""))
        style = "bold" if trial is best else None
        table.add_row(short_name(trial.name), status, *cells, *numbers, duration(trial.seconds), *notes, style=style)
    return table


def trial_line(trial: Trial, done: int, sweep: Sweep, told: dict[str, str]) -> str:
    """Returns the line printed when a trial ends: `3/6  val/accuracy 0.8125  lr=0.00123  21 s`.

    Reasons of failures are noted in `told`, see `reason_of`.
    """
    what = "" if trial.objective is None else f"{sweep.metric} {decimal(trial.objective)}"
    what = what if trial.status == "Completed" else f"{trial.status} {what}".rstrip()
    reason = f"  {reason_of(trial, told)}" if trial.reason else ""
    return f"{done:>3}/{sweep.max_jobs}  {what}  {brief_values(trial)}  {duration(trial.seconds)}{reason}"


def reason_of(trial: Trial, told: dict[str, str]) -> str:
    """Returns why a trial failed and what to do, or `as 001` where that was told of trial 001 already.

    `told` has the reasons so far, each with the name of the trial it was told of; a new one is added.
    """
    first = told.setdefault(trial.reason, trial.name)
    return explain_failure(trial.reason) if first == trial.name or not trial.reason else f"as {short_name(first)}"


def trial_status_line(trial: Trial) -> str:
    """Returns the line printed when a trial at AWS starts or is being stopped: `    002 started  lr=0.00123`."""
    status = {"InProgress": "started"}.get(trial.status, trial.status.lower())
    return f"{short_name(trial.name):>7} {status}  {brief_values(trial)}"


def brief_values(trial: Trial) -> str:
    """Returns a trial's hyperparameters: `lr=0.00123 model=resnet34`."""
    return " ".join(f"{key}={brief(value)}" for key, value in trial.hyperparameters.items())


def cost_line(hours: float, price: float | None) -> str:
    """Returns what AWS charges: billable instance-hours, and the cost where the price of one is known."""
    cost = "" if price is None else f", {hours * price:.2f} at {price:g} an hour"
    return f"billable: {hours:.2f} instance-hours{cost}"


def progress_bar(sweep: Sweep, hours: bool) -> Table:
    """Returns a bar and what a sweep is doing now; with `hours` the instance-hours so far too."""
    done = sum(trial.status in TERMINAL for trial in sweep.trials)
    grid = Table.grid(padding=(0, 1))
    line = progress_line(sweep) + (f", {sweep.billable_hours:.2f} instance-hours so far" if hours else "")
    grid.add_row(ProgressBar(total=sweep.max_jobs, completed=done, width=24), line)
    return grid


def progress_line(sweep: Sweep) -> str:
    """Returns what a sweep is doing now: trials done and running, the best so far, its time, the time that is left."""
    done = [t for t in sweep.trials if t.status in TERMINAL]
    running = [t for t in sweep.trials if t.status not in TERMINAL]
    best = sweep.best
    so_far = "none yet" if best is None else f"{sweep.metric} {decimal(best.objective)}"
    left = time_left(done, running, sweep.max_jobs)
    eta = "" if left is None else f", about {duration(left)} left"
    return f"{len(done)}/{sweep.max_jobs} done, {len(running)} running, best {so_far}, {duration(sweep.seconds)}{eta}"


def time_left(done: list[Trial], running: list[Trial], max_jobs: int) -> float | None:
    """Returns the seconds until a sweep ends, if trials take as long as those done, as many at a time as now run.

    None before the first of them has ended.
    """
    times = [t.seconds for t in done if t.status == "Completed" and t.seconds]
    if not times:
        return None
    mean = sum(times) / len(times)
    work = max(0, max_jobs - len(done)) * mean - sum(min(mean, t.seconds or 0) for t in running)
    return max(0.0, work / max(1, len(running)))


def brief(text: str) -> str:
    """Returns a value as typed, numbers with four significant digits."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if number.is_integer() and "e" not in text.lower() else f"{number:.4g}"


def decimal(value: float | None) -> str:
    """Returns a metric with four decimals; `-` where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    """Returns `8 s`, `1:23` (minutes) or `2:05:00` (hours)."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
