"""Tables of plans, sweeps and trainings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from launch.backends import Backend
from launch.backends.aws.errors import explain_failure
from launch.runs.results import Sweep, Trial, billable_seconds
from launch.spec.contract import Json
from launch.spec.naming import short_name
from launch.spec.plan import Plan, max_hours
from launch.views.text import STYLES, brief, cost_bound, decimal, duration


def plan_table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Returns the plan of a command: one row per aspect, with its name and its value."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def sweep_plan(plan: Plan, backend: Backend) -> Table:
    """Returns the plan of a sweep: data, weights, search space, number of jobs, bound on instance-hours."""
    return plan_table(f"sweep {plan.name}", _sweep_rows(plan, backend))


def _sweep_rows(plan: Plan, backend: Backend) -> Iterator[tuple[str, str]]:
    cfg = plan.cfg
    if plan.app is None:
        yield from _training_rows(cfg)
    else:
        yield "runs", plan.app
    yield "fixed", " ".join(plan.fixed) or "all defaults"
    for parameter in plan.parameters:
        yield f"search {parameter.key}", str(parameter)
    for point in plan.first if backend.takes_first_points else ():
        yield "tried first", " ".join(f"{name}={value}" for name, value in point.items())
    space = "" if plan.combinations is None else f" of {plan.combinations} combinations"
    yield "objective", f"{cfg.objective.goal} {cfg.objective.metric}"
    yield "jobs", f"{plan.max_jobs}{space}, {plan.max_parallel_jobs} at a time, {cfg.tuner.strategy}"
    yield _runs_on(cfg, backend, plan.bound_hours)
    if backend.billed and (cfg.instance.spot or cfg.instance.retries):  # SageMaker copies the whole prefix
        yield "checkpoints", f"each job first downloads those of earlier trials, to {cfg.instance.volume_gb} GB of disk"


def training_plan(cfg: DictConfig, fixed: Iterable[str], backend: Backend) -> Table:
    """Returns the plan of a single training: data, weights, overrides, bound on instance-hours."""
    rows = [
        *([("the best of", str(cfg.from_tuning))] if cfg.from_tuning else []),
        *_training_rows(cfg),
        ("given", " ".join(fixed) or "all defaults"),
        _runs_on(cfg, backend, (max_hours(cfg.instance) + cfg.instance.keep_alive_minutes / 60) * cfg.instance.count),
    ]
    return plan_table(f"training {cfg.name}", rows)


def _training_rows(cfg: DictConfig) -> list[tuple[str, str]]:
    epochs = f"{cfg.epochs} epoch{'' if cfg.epochs == 1 else 's'}"
    return [("data", str(cfg.data.url)), ("weights", f"{cfg.model.weights}, finetune {cfg.finetune}, {epochs}")]


def _runs_on(cfg: DictConfig, backend: Backend, hours: float) -> tuple[str, str]:
    if not backend.billed and cfg.instance.max_hours is None:
        return "runs on", backend.describe_instances(cfg)
    bound = cost_bound(hours, cfg.instance.price_per_hour)
    return "runs on", f"{backend.describe_instances(cfg)}; at most {bound}"


def sweep_table(sweep: Sweep) -> Table:
    """Returns one row per trial, best first; columns for failure reasons and findings only if there are any."""
    keys = list(dict.fromkeys(key for trial in sweep.trials for key in trial.hyperparameters))
    names = [n for n in ("val/accuracy", "val/loss", "test/accuracy") if any(n in t.metrics for t in sweep.trials)]
    extra = [name for name in names if name != sweep.metric]
    table = Table(title=f"sweep {sweep.name}: {sweep.status}", title_justify="left")
    table.add_column("trial", no_wrap=True)
    table.add_column("status")
    for name in [*keys, sweep.metric, *extra, "time"]:
        table.add_column(name, justify="right")
    failed = any(trial.reason for trial in sweep.trials)
    if failed:
        table.add_column("reason", overflow="fold")
    issues = any(trial.findings for trial in sweep.trials)
    if issues:
        table.add_column("findings", overflow="fold")
    best = sweep.best
    shown: dict[str, str] = {}
    for trial in sweep.ranked:
        cells = [brief(trial.hyperparameters.get(key, "")) for key in keys]
        numbers = [decimal(trial.objective), *(decimal(trial.metrics.get(name)) for name in extra)]
        reason = [Text(failure_reason(trial, shown))] if failed else []
        notes = [*reason, Text(" ".join(trial.findings))] if issues else reason
        status = Text(trial.status, style=STYLES.get(trial.status, ""))
        style = "bold" if trial is best else None
        table.add_row(short_name(trial.name), status, *cells, *numbers, duration(trial.seconds), *notes, style=style)
    return table


def failure_reason(trial: Trial, shown: dict[str, str]) -> str:
    """Returns why a trial failed and what to do, or `as 001` if the reason of trial 001 was the same.

    `shown` is the name of the trial that each reason was shown for; a new reason is added.
    """
    first = shown.setdefault(trial.reason, trial.name)
    return explain_failure(trial.reason) if first == trial.name or not trial.reason else f"as {short_name(first)}"


def training_table(job: Json) -> Table:
    """Returns a described training job: failure reason, metrics, billed time, hyperparameters."""
    title = f"training {job['TrainingJobName']}: {job['TrainingJobStatus']}"
    table = Table("key", "value", title=title, title_justify="left")
    if "FailureReason" in job:
        table.add_row("reason", Text(explain_failure(job["FailureReason"])))
    for metric in job.get("FinalMetricDataList", []):
        table.add_row(metric["MetricName"], decimal(metric["Value"]))
    if (seconds := billable_seconds(job)) is not None:
        table.add_row("billable", f"{seconds / 3600:.3f} instance-hours")
    for key, value in sorted(job.get("HyperParameters", {}).items()):
        table.add_row(key, Text(value))
    return table


def jobs_table(sweeps: Iterable[tuple[Json, float | None]], trainings: Iterable[Json]) -> Table:
    """Returns one row per sweep (with its best objective) and per training that is not a trial, newest first."""
    table = Table(title="sweeps and trainings", title_justify="left")
    for column in ("name", "kind", "status", "trials", "best", "started", "time"):
        table.add_column(column, justify="right" if column in ("trials", "best", "time") else "left")
    rows: list[tuple[datetime, list[str | Text]]] = []
    for job, best in sweeps:
        limit = job.get("ResourceLimits", {}).get("MaxNumberOfTrainingJobs", "?")
        done = f"{job['TrainingJobStatusCounters'].get('Completed', 0)}/{limit}"
        rows.append(_job_row("sweep", job, "HyperParameterTuning", [done, decimal(best)]))
    rows += [_job_row("training", job, "Training", ["", ""]) for job in trainings]
    for _, cells in sorted(rows, key=lambda row: row[0], reverse=True):
        table.add_row(*cells)
    return table


def _job_row(kind: str, job: Json, prefix: str, cells: list[str]) -> tuple[datetime, list[str | Text]]:
    """Returns the creation time and the cells of one job; `prefix` begins the API's names of its fields."""
    name, status, created = job[f"{prefix}JobName"], job[f"{prefix}JobStatus"], job["CreationTime"]
    seconds = (job.get(f"{prefix}EndTime", datetime.now(timezone.utc)) - created).total_seconds()
    started = created.astimezone().strftime("%Y-%m-%d %H:%M")
    return created, [name, kind, Text(status, style=STYLES.get(status, "")), *cells, started, duration(seconds)]
