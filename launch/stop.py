"""Stops a sweep or a training, on this machine or on AWS; its results so far are kept.

python -m launch.stop NAME
python -m launch.stop NAME backend=sagemaker
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.cli import SUCCESS, split_argv
from launch.runs.lookup import describe
from launch.runs.requests import check_owned, owner_of
from launch.runs.requests import stop as request_stop
from launch.spec.naming import TERMINAL
from launch.spec.settings import BACKEND, compose_lookup
from launch.views.text import console


def main(argv: list[str]) -> int:
    """Requests that a sweep or training stops; returns 0, also if it had ended before."""
    args = split_argv(argv)
    name = args.one_name("python -m launch.stop NAME; python -m launch.status lists names")
    cfg, out = compose_lookup("tune", args.overrides), console()
    backend = open_backend(cfg)
    with api_errors(cfg):
        client = backend.client()
        kind, job = describe(client, name)
        resource = "HyperParameterTuningJob" if kind == "sweep" else "TrainingJob"
        status = job[f"{resource}Status"]
        if status in TERMINAL:
            out.print(f"{name} has already ended: {status}")
            return SUCCESS
        check_owned(client, resource, job, owner_of(name), "stop it with the tool that started it")
        request_stop(client, resource, name)
    follow = backend.command_line("status", name, "--follow")
    out.print(f"{name} is stopping; follow it to its end: {follow}", soft_wrap=True)
    if kind == "sweep":
        out.print(f"resume it later: {backend.command_line('tune', f'resume={name}')}", soft_wrap=True)
    return SUCCESS


if __name__ == "__main__":
    run_cli(main, __doc__, BACKEND)
