"""Trains one classifier as a SageMaker training job, on this machine or at AWS.

    python -m launch.train from_tuning=NAME                  what the best trial of a sweep was given
    python -m launch.train from_tuning=NAME epochs=20        with more epochs; what is typed goes over it
    python -m launch.train model=resnet34 lr=0.003           from nothing but what is typed
    python -m launch.train ... backend=sagemaker             at AWS
    python -m launch.train ... dry_run=true                  the exact request, checked, not sent

Ctrl-C stops the job on this machine; at AWS it goes on, and python -m launch.status NAME --follow looks at it again.
The exit status is 0 where the job completed, 1 where it did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from dogbreed.cli.command import run_cli
from dogbreed.cli.config import resolve_defaults
from dogbreed.cli.groups import choices
from dogbreed.cli.overrides import parse
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.runs.polling import Interrupted, follow
from launch.runs.progress import TrainingWatch
from launch.runs.results import read_best
from launch.runs.submit import submit
from launch.runs.summary import and_look_again, finish_training, say_detached
from launch.spec.contract import job_overrides
from launch.spec.plan import absolute_paths, for_the_job
from launch.spec.requests.tuning import training_request
from launch.spec.settings import compose
from launch.views.tables import bound, console

OPERATION = "CreateTrainingJob"


def main(overrides: list[str]) -> int:
    """Runs one training job; returns 0, 1 where it did not complete, or 128 + the signal that came."""
    out = console()
    typed = compose("training", overrides)
    chosen = merge(_best_of(typed), overrides) if typed.from_tuning is not None else list(overrides)
    cfg = resolve_defaults(compose("training", chosen))
    fixed = for_the_job(chosen) + absolute_paths(cfg)
    target, upload = open_backend(cfg).prepare(cfg)
    request = training_request(cfg, fixed, target)
    (console(stderr=True) if cfg.dry_run else out).print(_plan_table(cfg, fixed))
    if not cfg.dry_run:
        open_backend(cfg).check_data(cfg, out)
    return submit(cfg, {OPERATION: request}, lambda client: _run(client, cfg, request, out), upload)


def merge(found: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Returns the overrides `found`, without those of keys that were typed too, then those `typed`.

    Another choice of a group than was found also drops the keys within it: they belong to the old one.
    """
    given = [(override.key_or_group, override.value()) for override in parse(found)]
    own = {override.key_or_group: override.value() for override in parse(typed)}
    old = tuple(f"{key}." for key, value in own.items() if choices(key) and (key, value) not in given)
    kept = [text for text, (key, _) in zip(found, given, strict=True) if key not in own and not key.startswith(old)]
    return [*kept, *typed]


def _best_of(cfg: DictConfig) -> list[str]:
    """Returns the overrides of the best trial of the sweep that `cfg.from_tuning` names."""
    name = str(cfg.from_tuning)
    with api_errors(cfg):
        client = open_backend(cfg).client()
        _, best = read_best(client, name)
        job = client.describe_training_job(TrainingJobName=best.name)
    return job_overrides(job["HyperParameters"])


def _plan_table(cfg: DictConfig, fixed: Sequence[str]) -> Table:
    table = Table(title=f"training {cfg.name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if cfg.from_tuning:
        table.add_row("the best of", str(cfg.from_tuning))
    table.add_row("data", str(cfg.data.url))
    table.add_row("weights", f"{cfg.model.weights}, finetune {cfg.finetune}, {cfg.epochs} epochs")
    table.add_row("given", " ".join(fixed) or "all defaults")
    hours = float(cfg.instance.max_hours * cfg.instance.count)
    table.add_row(
        "runs on", f"{open_backend(cfg).describe_instances(cfg)}; at most {bound(hours, cfg.instance.price_per_hour)}"
    )
    return table


def _run(client: Any, cfg: DictConfig, request: dict[str, Any], out: Console) -> int:
    name, at_aws = request["TrainingJobName"], open_backend(cfg).billed
    with Interrupted() as interrupted:  # before it is created, so that none is left running without a word
        client.create_training_job(**request)
        look = open_backend(cfg).command_line("status", name)
        out.print(f"\nstarted {name}; look from elsewhere with: {look}", soft_wrap=True)
        with api_errors(cfg, and_look_again(cfg, name)):
            watch = TrainingWatch(client, name, cfg, out)
            stopped = follow(watch, out, open_backend(cfg).poll_s, detach=at_aws, interrupted=interrupted)
    if stopped and at_aws and not watch.ended:
        return say_detached(cfg, name, stopped, out)
    status = finish_training(watch.job, cfg, out)
    return 128 + stopped if stopped else status


if __name__ == "__main__":
    run_cli(main, __doc__)
