"""One sweep, from overrides to its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dogbreed.cli.config import fresh_name
from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.runs.loop import run_to_end
from launch.runs.progress import SweepRun
from launch.runs.requests import create
from launch.runs.results import read_sweep
from launch.runs.submit import submit
from launch.spec.contract import Json
from launch.spec.limits import warm_start_problems
from launch.spec.naming import resumed_name
from launch.spec.plan import Plan, make_plan
from launch.spec.requests.tuning import resume_request, tuning_request
from launch.spec.settings import compose
from launch.views.tables import sweep_plan
from launch.views.text import console

OPERATION = "CreateHyperParameterTuningJob"

RESUME_KEYS = (
    "resume", "tuner.max_jobs", "name", "logs", "dry_run", "instance.price_per_hour", "backend", "backend.root",
    "backend.region", "backend.role", "backend.bucket", "backend.image",
)  # fmt: skip
"""Keys that have an effect on a resumed sweep; the last three go into the command that trains the best trial."""


def run_sweep(overrides: Sequence[str]) -> int:
    """Runs or resumes one sweep, given what follows `python -m launch.tune`.

    Returns 0, 1 if no trial has a result, or 128 + the signal that stopped it.

    Raises:
        UserError: An override is invalid, or SageMaker returns an error; the message contains advice.
    """
    given = {override.key_or_group: override.value() for override in parse(overrides)}
    if given.get("resume") is None:
        return run_plan(make_plan(overrides, Path.cwd(), fresh_name))
    if unsupported := [key for key in given if key not in RESUME_KEYS]:
        raise UserError(
            f"{', '.join(unsupported)}: cannot be changed when resuming a sweep; allowed: tuner.max_jobs, name, logs, "
            f"dry_run and the backend. To change more, start a new sweep with tuner.warm_start=[{given['resume']}]"
        )
    cfg = compose("tune", overrides)
    return _submit(cfg, _resume(cfg, extend=given.get("tuner.max_jobs") is not None), lambda: None)


def run_plan(plan: Plan, app: Path | None = None) -> int:
    """Runs the sweep of `plan`; returns as `run_sweep` does. `app` is the folder of another Hydra application."""
    cfg, backend = plan.cfg, open_backend(plan.cfg)
    # with dry_run only the request goes to standard output, so that it can be piped
    out = console(stderr=cfg.dry_run)
    out.print(sweep_plan(plan, backend))
    if not cfg.dry_run and app is None:
        backend.check_data(cfg, out)
    target, upload = backend.prepare(cfg, app)
    if target.image_note:
        out.print(f"image: {target.image}: {target.image_note}", soft_wrap=True)
    return _submit(cfg, tuning_request(plan, target), upload)


def _submit(cfg: DictConfig, request: Json, upload: Callable[[], None]) -> int:
    backend, out = open_backend(cfg), console()

    def run(client: Any) -> int:
        for parent in request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
            if problems := warm_start_problems(request, client.describe_hyper_parameter_tuning_job(**parent)):
                raise UserError("; ".join(problems))
        sweep = SweepRun(client, request["HyperParameterTuningJobName"], cfg, backend, out)
        return run_to_end(sweep, cfg, backend, out, lambda: create(client, OPERATION, request, sweep.name))

    return submit(cfg, {OPERATION: request}, run, upload)


def _resume(cfg: DictConfig, extend: bool) -> Json:
    """Returns the request that resumes the sweep `cfg.resume`; `extend`: up to `cfg.tuner.max_jobs` trials in all."""
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
    if extend and grid:
        raise UserError(f"tuner.max_jobs: sweep {name} is a grid, with {sweep.max_jobs} trials in all: leave it out")
    finished = sum(trial.is_finished(sweep.early_stopping) for trial in sweep.trials)
    remaining = (int(cfg.tuner.max_jobs) if extend else sweep.max_jobs) - finished
    if remaining < 1:
        advice = "" if grid else f": ask for more with tuner.max_jobs={finished + 4}"
        raise UserError(f"sweep {name} has its {finished} trials{advice}")
    return resume_request(described, str(cfg.name or resumed_name(name)), remaining, tags)
