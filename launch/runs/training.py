"""One training job, from overrides to its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dogbreed.cli.config import fresh_name
from dogbreed.cli.groups import choices
from dogbreed.cli.overrides import parse
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.runs.loop import run_to_end
from launch.runs.progress import TrainingRun
from launch.runs.requests import create
from launch.runs.results import read_best
from launch.runs.submit import submit
from launch.spec.contract import job_overrides
from launch.spec.plan import make_training_plan
from launch.spec.requests.training import training_request
from launch.spec.settings import compose
from launch.views.tables import training_plan
from launch.views.text import console

OPERATION = "CreateTrainingJob"


def run_training(overrides: Sequence[str]) -> int:
    """Runs one training job, given what follows `python -m launch.train`.

    Returns 0, 1 if it does not complete, or 128 + the signal that stopped it.

    Raises:
        UserError: An override is invalid, or SageMaker returns an error; the message contains advice.
    """
    given = compose("training", overrides)
    if given.from_tuning is not None:
        overrides = merge_overrides(_best_overrides(given), overrides)
    cfg, fixed = make_training_plan(overrides, Path.cwd(), fresh_name)
    backend, out = open_backend(cfg), console(stderr=cfg.dry_run)
    out.print(training_plan(cfg, fixed, backend))
    if not cfg.dry_run:
        backend.check_data(cfg, out)
    target, upload = backend.prepare(cfg)
    if target.image_note:
        out.print(f"image: {target.image}: {target.image_note}", soft_wrap=True)
    request = training_request(cfg, fixed, target)

    def run(client: Any) -> int:
        training = TrainingRun(client, request["TrainingJobName"], cfg, backend, out)
        return run_to_end(training, cfg, backend, out, lambda: create(client, OPERATION, request, training.name))

    return submit(cfg, {OPERATION: request}, run, upload)


def merge_overrides(base: Sequence[str], given: Sequence[str]) -> list[str]:
    """Returns the overrides of `base` whose keys are not in `given`, followed by `given`.

    If `given` selects another choice of a group than `base`, keys within that group are dropped from `base` too,
    because they belong to the old choice.
    """
    base_values = [(override.key_or_group, override.value()) for override in parse(base)]
    own = {override.key_or_group: override.value() for override in parse(given)}
    replaced = tuple(f"{key}." for key, value in own.items() if choices(key) and (key, value) not in base_values)
    kept = [
        text
        for text, (key, _) in zip(base, base_values, strict=True)
        if key not in own and not key.startswith(replaced)
    ]
    return [*kept, *given]


def _best_overrides(cfg: DictConfig) -> list[str]:
    """Returns the overrides of the best trial of sweep `cfg.from_tuning`."""
    with api_errors(cfg):
        client = open_backend(cfg).client()
        _, best = read_best(client, str(cfg.from_tuning))
        job = client.describe_training_job(TrainingJobName=best.name)
    return job_overrides(job["HyperParameters"])
