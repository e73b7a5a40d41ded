"""Shows sweeps and trainings, running or ended, of this machine or of AWS.

    python -m launch.status                           all of them, newest first, at most 50 sweeps
    python -m launch.status NAME                      the trials of one sweep, or one training
    python -m launch.status NAME --follow             follow it to its end, then print the results
    python -m launch.status NAME --follow --logs      print all log lines of a sweep's trials too

Add backend=sagemaker for AWS. Ctrl-C stops following; the job keeps running. With --follow the exit status is 0 if the
job completed (a sweep: if it has a best trial), 1 if not, and 130 after Ctrl-C.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from dogbreed.cli.command import run_cli
from launch.backends import Backend, open_backend
from launch.backends.aws.errors import api_errors
from launch.cli import SUCCESS, split_argv
from launch.runs.lookup import best_objective, describe, list_sweeps, list_trainings
from launch.runs.loop import run_to_end
from launch.runs.progress import SweepRun, TrainingRun
from launch.runs.results import read_sweep
from launch.runs.summary import read_findings
from launch.spec.settings import BACKEND, compose_lookup
from launch.views.tables import jobs_table, sweep_table, training_table
from launch.views.text import console


def main(argv: list[str]) -> int:
    """Prints the list, or one sweep or training, or follows it; returns the exit status."""
    args = split_argv(argv, flags=("--follow", "--logs"))
    follow = "--follow" in args.flags
    name = args.one_name("python -m launch.status NAME --follow") if follow else args.optional_name()
    cfg = compose_lookup("tune", args.overrides)
    cfg.logs = "--logs" in args.flags
    backend, out = open_backend(cfg), console()
    with api_errors(cfg):
        client = backend.client()
        if name is None:
            out.print(_list(client, backend))
        elif follow:
            run = SweepRun if describe(client, name)[0] == "sweep" else TrainingRun
            return run_to_end(run(client, name, cfg, backend, out), cfg, backend, out)
        else:
            out.print(_details(client, name, backend, out))
    return SUCCESS


def _list(client: Any, backend: Backend) -> Table | str:
    sweeps = [(job, best_objective(client, job["HyperParameterTuningJobName"])) for job in list_sweeps(client)]
    trainings = list_trainings(client)
    if sweeps or trainings:
        return jobs_table(sweeps, trainings)
    where = "" if backend.jobs_root is None else f" in {backend.jobs_root.absolute()}"
    return f"nothing yet{where}; start a sweep with: python -m launch.tune model=resnet34 lr=range"


def _details(client: Any, name: str, backend: Backend, out: Console) -> Table:
    kind, job = describe(client, name)
    if kind == "training":
        return training_table(job)
    sweep = read_sweep(client, name, metrics=True)
    # on AWS reading the logs takes two requests per trial
    return sweep_table(sweep if backend.billed else read_findings(backend, sweep, out))


if __name__ == "__main__":
    run_cli(main, __doc__, BACKEND)
