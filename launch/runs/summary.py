"""What is left when a sweep or a training has ended, or when one looks away from it: tables, files, commands."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.backends import open_backend
from launch.backends.aws.errors import explain_failure
from launch.runs.results import Sweep, billable_seconds, found_issues, learning_curve, read_sweep, write_results
from launch.views.tables import cost_line, decimal, duration, sweep_table


def finish_sweep(client: Any, cfg: DictConfig, name: str, out: Console) -> int:
    """Writes the results of an ended sweep, draws them, prints the table and what to do next; returns 0 or 1."""
    from launch.views.plots import plot_sweep

    sweep = read_sweep(client, name, metrics=True)
    logs = _read_logs(cfg, sweep, out)
    sweep = _with_findings(sweep, logs)
    folder = Path(cfg.backend.root) / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    best = sweep.best
    train_best = _for_the_best(cfg, sweep)
    write_results(sweep, folder, train_best)
    out.print()
    out.print(sweep_table(sweep))
    if open_backend(cfg).billed:
        cost = cost_line(sweep.billable_hours, cfg.instance.price_per_hour)
        out.print(f"{duration(sweep.seconds)} from start to end; {cost}", soft_wrap=True)
    if sweep.reason:
        out.print(f"{sweep.status}: {explain_failure(sweep.reason)}", soft_wrap=True)
    if best is None:
        out.print(f"no trial gave a result; {_where_logs_are(cfg, sweep)}", soft_wrap=True)
        return 1
    curves = {trial: learning_curve(log, sweep.metric) for trial, log in logs.items()}
    plot_sweep(sweep, curves, folder / "sweep.png")
    found = " ".join(f"{key}={value}" for key, value in best.hyperparameters.items())
    out.print(f"best: {best.name}  {sweep.metric}={best.objective:.4f}  {found}", soft_wrap=True)
    out.print(f"train the best: {shlex.join(train_best)}", soft_wrap=True)
    out.print(f"results.csv, results.json and sweep.png are in {folder}", soft_wrap=True)
    return 0


def _for_the_best(cfg: DictConfig, sweep: Sweep) -> list[str]:
    """Returns the command that runs the best trial's settings again; none where there is no best."""
    if sweep.best is None:
        return []
    if sweep.app is None:
        return open_backend(cfg).command("train", f"from_tuning={sweep.name}")
    found = [f"{key}={value}" for key, value in sweep.best.hyperparameters.items()]
    return ["python", sweep.app, *sweep.fixed, *found]


def finish_training(job: dict[str, Any], cfg: DictConfig, out: Console) -> int:
    """Prints what a training job came to; returns 0, or 1 where it did not complete."""
    out.print()
    out.print(training_table(job))
    seconds = billable_seconds(job)
    if open_backend(cfg).billed and seconds is not None:
        price = cfg.instance.price_per_hour
        out.print(cost_line(seconds / 3600, price))
    completed = job["TrainingJobStatus"] == "Completed"
    if completed:
        out.print(f"model: {job['ModelArtifacts']['S3ModelArtifacts']}", soft_wrap=True)
    if not open_backend(cfg).billed:
        out.print(f"everything is in {Path(cfg.backend.root) / job['TrainingJobName']}", soft_wrap=True)
    return 0 if completed else 1


def training_table(job: dict[str, Any]) -> Table:
    """Returns what is known of a training job: metrics, times, why it failed, its hyperparameters."""
    title = f"training {job['TrainingJobName']}: {job['TrainingJobStatus']}"
    table = Table("key", "value", title=title, title_justify="left")
    if "FailureReason" in job:
        table.add_row("reason", Text(explain_failure(job["FailureReason"])))
    for metric in job.get("FinalMetricDataList", []):
        table.add_row(metric["MetricName"], decimal(metric["Value"]))
    for kind in ("DebugRuleEvaluationStatuses", "ProfilerRuleEvaluationStatuses"):
        for rule in job.get(kind, []):
            status = f"{rule['RuleEvaluationStatus']} {rule.get('StatusDetails', '')}"
            table.add_row(f"rule {rule['RuleConfigurationName']}", Text(status.strip()))
    if (seconds := billable_seconds(job)) is not None:
        table.add_row("billable", f"{seconds / 3600:.3f} instance-hours")
    for key, value in sorted(job.get("HyperParameters", {}).items()):
        table.add_row(key, Text(value))
    return table


def and_look_again(cfg: DictConfig, name: str) -> str:
    """Returns what follows an error once `name` was started at AWS: it goes on, and one can look again."""
    if not open_backend(cfg).billed:
        return ""
    return f"; {name} goes on, look again: {open_backend(cfg).command_line('status', name, '--follow')}"


def say_detached(cfg: DictConfig, name: str, number: signal.Signals, out: Console) -> int:
    """Says that `name` goes on and how to look again or stop it; returns 128 + the signal."""
    out.print(f"{number.name}: {name} goes on without you", soft_wrap=True)
    out.print(f"  look again: {open_backend(cfg).command_line('status', name, '--follow')}", soft_wrap=True)
    out.print(f"  stop it:    {open_backend(cfg).command_line('stop', name)}", soft_wrap=True)
    return 128 + number


def _where_logs_are(cfg: DictConfig, sweep: Sweep) -> str:
    if not open_backend(cfg).billed:
        return f"their logs are in {Path(cfg.backend.root) / sweep.name}/*/log.txt"
    first = sweep.own_trials[0].name if sweep.own_trials else "TRIAL"
    return f"their logs: {open_backend(cfg).command_line('status', first, '--follow')}"


def _read_logs(cfg: DictConfig, sweep: Sweep, out: Console) -> dict[str, list[str]]:
    """Returns trial to the lines of its log; at AWS of the best ones, two requests each."""
    trials = sweep.ranked[: open_backend(cfg).max_logs]
    try:
        return {trial.name: open_backend(cfg).logs(trial.name).read() for trial in trials}
    except ClientError as error:
        out.print(f"no learning curves and findings, the logs cannot be read: {error}", soft_wrap=True)
        return {}


def _with_findings(sweep: Sweep, logs: Mapping[str, Sequence[str]]) -> Sweep:
    trials = (replace(trial, findings=found_issues(logs.get(trial.name, ()))) for trial in sweep.trials)
    return replace(sweep, trials=tuple(trials))
