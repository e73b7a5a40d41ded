"""End-of-run summary: result files, table, next commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from omegaconf import DictConfig
from rich.console import Console

from launch.backends import Backend
from launch.backends.aws.errors import explain_failure
from launch.runs.result_files import found_issues, learning_curve, write_results
from launch.runs.results import Sweep, billable_seconds, read_sweep
from launch.spec.contract import Json, app_program
from launch.views.tables import sweep_table, training_table
from launch.views.text import cost_line, duration

REPORT = Path("ml", "output", "data", "report.html")
"""The debugger's report in the folder of a job on this machine."""


def finish_sweep(client: Any, cfg: DictConfig, backend: Backend, name: str, out: Console) -> int:
    """Writes and plots the results of an ended sweep, and prints its table and the next commands.

    Returns:
        0, or 1 if the sweep failed or no trial has a result.
    """
    sweep = read_sweep(client, name, metrics=True)
    folder, train_best = backend.results_root / sweep.name, _train_best(backend, sweep)
    write_results(sweep, folder, train_best)  # before the logs are read, which may fail
    logs = _read_logs(backend, sweep, out)
    sweep = with_findings(sweep, logs)
    write_results(sweep, folder, train_best)
    out.print()
    out.print(sweep_table(sweep))
    if backend.billed:
        cost = cost_line(sweep.billable_hours, cfg.instance.price_per_hour)
        out.print(f"{duration(sweep.seconds)} from start to end; {cost}", soft_wrap=True)
    if sweep.reason:
        out.print(f"{sweep.status}: {explain_failure(sweep.reason)}", soft_wrap=True)
    best = sweep.best
    if best is None:
        out.print(f"no trial gave a result; {_log_hint(backend, sweep)}", soft_wrap=True)
        return 1
    _plot(sweep, logs, folder)
    point = " ".join(f"{key}={value}" for key, value in best.hyperparameters.items())
    out.print(f"best: {best.name}  {sweep.metric}={best.objective:.4f}  {point}", soft_wrap=True)
    out.print(f"train the best: {shlex.join(train_best)}", soft_wrap=True)
    out.print(f"results.csv, results.json and sweep.png are in {folder}", soft_wrap=True)
    _print_report(backend, Path(sweep.name, best.name), "report of the best trial", out)
    return int(sweep.status == "Failed")


def finish_training(job: Json, cfg: DictConfig, backend: Backend, out: Console) -> int:
    """Prints the outcome of a training job; returns 0, or 1 if it did not complete."""
    out.print()
    out.print(training_table(job))
    seconds = billable_seconds(job)
    if backend.billed and seconds is not None:
        out.print(cost_line(seconds / 3600, cfg.instance.price_per_hour))
    completed = job["TrainingJobStatus"] == "Completed"
    if completed:
        out.print(f"model: {job['ModelArtifacts']['S3ModelArtifacts']}", soft_wrap=True)
    if backend.jobs_root is not None:
        out.print(f"all files are in {backend.jobs_root / job['TrainingJobName']}", soft_wrap=True)
        _print_report(backend, Path(job["TrainingJobName"]), "report", out)
    return 0 if completed else 1


def read_findings(backend: Backend, sweep: Sweep, out: Console) -> Sweep:
    """Returns `sweep` with the debugger's findings, which are read from the logs of its trials."""
    return with_findings(sweep, _read_logs(backend, sweep, out))


def with_findings(sweep: Sweep, logs: Mapping[str, Sequence[str]]) -> Sweep:
    """Returns `sweep` with the debugger's findings in `logs`, the lines of each trial's log by its name."""
    trials = (replace(trial, findings=found_issues(logs.get(trial.name, ()))) for trial in sweep.trials)
    return replace(sweep, trials=tuple(trials))


def _train_best(backend: Backend, sweep: Sweep) -> list[str]:
    """Returns the command that runs the best trial's settings again; empty if there is no best trial."""
    if sweep.best is None:
        return []
    if sweep.app is None:
        return backend.command("train", f"from_tuning={sweep.name}")
    point = [f"{key}={value}" for key, value in sweep.best.hyperparameters.items()]
    return ["python", *app_program(sweep.app), *sweep.fixed, *point]


def _plot(sweep: Sweep, logs: Mapping[str, Sequence[str]], folder: Path) -> None:
    from launch.views.plots import plot_sweep  # imports matplotlib

    curves = {trial: learning_curve(log, sweep.metric) for trial, log in logs.items()}
    plot_sweep(sweep, curves, folder / "sweep.png")


def _print_report(backend: Backend, job: Path, title: str, out: Console) -> None:
    if backend.jobs_root is not None and (report := backend.jobs_root / job / REPORT).is_file():
        out.print(f"{title}: {report}", soft_wrap=True)


def _log_hint(backend: Backend, sweep: Sweep) -> str:
    if backend.jobs_root is not None:
        return f"their logs are in {backend.jobs_root / sweep.name}/*/log.txt"
    first = sweep.own_trials[0].name if sweep.own_trials else "TRIAL"
    return f"their logs: {backend.command_line('status', first, '--follow')}"


def _read_logs(backend: Backend, sweep: Sweep, out: Console) -> dict[str, list[str]]:
    """Returns the name of a trial to the lines of its log, best trials first, at most `backend.max_logs`."""
    try:
        return {trial.name: backend.logs(trial.name).read() for trial in sweep.ranked[: backend.max_logs]}
    except (ClientError, BotoCoreError) as error:
        out.print(f"no learning curves and findings, because the logs cannot be read: {error}", soft_wrap=True)
        return {}
