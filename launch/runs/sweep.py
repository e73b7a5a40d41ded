"""One sweep: from what was typed, over the request, to its table, files and image."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.local.jobs.process import end_ahead
from launch.runs.polling import Interrupted, follow
from launch.runs.progress import SweepWatch
from launch.runs.results import read_sweep
from launch.runs.submit import submit
from launch.runs.summary import and_look_again, finish_sweep, say_detached
from launch.spec.naming import resumed_name
from launch.spec.plan import Plan, make_plan
from launch.spec.requests.tuning import resume_request, tuning_request
from launch.spec.settings import compose
from launch.views.tables import console, plan_table

OPERATION = "CreateHyperParameterTuningJob"

RESUMING = (
    "resume", "tuner.max_jobs", "name", "logs", "dry_run", "instance.price_per_hour", "backend", "backend.root",
    "backend.region", "backend.role", "backend.bucket", "backend.image",
)  # fmt: skip
"""Keys that mean something where a sweep is resumed; the last three go into the command that trains its best."""


def run_sweep(overrides: list[str]) -> int:
    """Runs one sweep; returns 0, 1 where no trial gave a result, or 128 + the signal that stopped it.

    Args:
        overrides: as they are typed after `python -m launch.tune`.

    Raises:
        UserError: a mistake in them, or what SageMaker answers, with what to do.
    """
    typed = {override.key_or_group: override.value() for override in parse(overrides)}
    if typed.get("resume") is None:
        return run_plan(make_plan(overrides))
    if vain := [key for key in typed if key not in RESUMING]:
        raise UserError(
            f"{', '.join(vain)}: of no effect where a sweep is resumed, which takes only tuner.max_jobs, name, logs, "
            f"dry_run and its backend; for more begin a sweep that learns from it, tuner.warm_start=[{typed['resume']}]"
        )
    cfg = compose("tune", overrides)
    return _submit(cfg, _resume(cfg, more=typed.get("tuner.max_jobs") is not None))


def run_plan(plan: Plan, app: Path | None = None) -> int:
    """Runs the sweep of `plan`; returns as `run_sweep` does.

    Args:
        plan: what to do.
        app: folder of another application, whose code goes to the jobs.
    """
    out, cfg = console(), plan.cfg
    _print_plan(plan, out)
    if not cfg.dry_run and app is None:
        open_backend(cfg).check_data(cfg, out)
    target, upload = open_backend(cfg).prepare(cfg, app)
    return _submit(cfg, tuning_request(plan, target), upload)


def _submit(cfg: DictConfig, request: dict[str, Any], upload: Callable[[], None] = lambda: None) -> int:
    if open_backend(cfg).billed or cfg.dry_run:
        end_ahead()
    return submit(cfg, {OPERATION: request}, lambda client: _run(client, cfg, request, console()), upload)


def _print_plan(plan: Plan, out: Console) -> None:
    """Shows the plan; with dry_run the request alone goes to standard output, so that it can be piped."""
    if plan.cfg.dry_run:
        out = console(stderr=True)
    out.print(plan_table(plan, open_backend(plan.cfg)))


def _resume(cfg: DictConfig, more: bool) -> dict[str, Any]:
    """Returns the request that goes on with a sweep, `more`: to a new number of trials in all."""
    name = str(cfg.resume)
    with api_errors(cfg):
        client = open_backend(cfg).client()
        sweep = read_sweep(client, name)
        described = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        pages = client.get_paginator("list_tags").paginate(ResourceArn=described["HyperParameterTuningJobArn"])
        tags = [tag for page in pages for tag in page["Tags"] if not tag["Key"].startswith("aws:")]
    if not sweep.ended:
        raise UserError(f"sweep {name} is still {sweep.status}: wait, or stop it: python -m launch.stop {name}")
    grid = described["HyperParameterTuningJobConfig"]["Strategy"] == "Grid"
    if more and grid:
        raise UserError(f"tuner.max_jobs: sweep {name} is a grid, with {sweep.max_jobs} trials in all: leave it out")
    finished = sum(trial.is_finished(sweep.early_stopping) for trial in sweep.trials)
    left = (int(cfg.tuner.max_jobs) if more else sweep.max_jobs) - finished
    if left < 1:
        advice = "" if grid else f": ask for more with tuner.max_jobs={finished + 4}"
        raise UserError(f"sweep {name} has its {finished} trials{advice}")
    return resume_request(described, str(cfg.name or resumed_name(name)), left, tags)


def _run(client: Any, cfg: DictConfig, request: dict[str, Any], out: Console) -> int:
    name, at_aws = request["HyperParameterTuningJobName"], open_backend(cfg).billed
    with Interrupted() as interrupted:  # before it is created, so that none is left running without a word
        client.create_hyper_parameter_tuning_job(**request)
        Thread(target=import_module, args=["launch.views.plots"], daemon=True).start()  # half a second of matplotlib
        look = open_backend(cfg).command_line("status", name)
        out.print(f"\nstarted {name}; look from elsewhere with: {look}", soft_wrap=True)
        with api_errors(cfg, and_look_again(cfg, name)):
            watch = SweepWatch(client, name, cfg, out)
            stopped = follow(watch, out, open_backend(cfg).poll_s, detach=at_aws, interrupted=interrupted)
    with api_errors(cfg, and_look_again(cfg, name)):
        if stopped and at_aws and not watch.ended:
            return say_detached(cfg, name, stopped, out)
        status = finish_sweep(client, cfg, name, out)
    if stopped:
        out.print(f"stopped; go on with: {open_backend(cfg).command_line('tune', f'resume={name}')}", soft_wrap=True)
        return 128 + stopped
    return status
