"""Stops a sweep or a training, on this machine or at AWS; what it has found is kept.

python -m launch.stop NAME
python -m launch.stop NAME backend=sagemaker
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.spec.naming import TERMINAL
from launch.spec.settings import compose
from launch.status import describe
from launch.views.tables import console


def main(words: list[str]) -> int:
    """Asks for the end of `NAME`; returns 0, also where it had ended already."""
    names = [word for word in words if "=" not in word]
    if len(names) != 1:
        raise UserError("give the one name to stop: python -m launch.stop NAME; python -m launch.status lists them")
    cfg, name, out = compose("tune", [word for word in words if "=" in word]), names[0], console()
    with api_errors(cfg):
        client = open_backend(cfg).client()
        kind, job = describe(client, name)
        status = job["HyperParameterTuningJobStatus" if kind == "sweep" else "TrainingJobStatus"]
        if status in TERMINAL:
            out.print(f"{name} has ended already: {status}")
            return 0
        if kind == "sweep":
            client.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        else:
            client.stop_training_job(TrainingJobName=name)
    look = open_backend(cfg).command_line("status", name, "--follow")
    out.print(f"{name} is being stopped; see its end: {look}", soft_wrap=True)
    if kind == "sweep":
        out.print(f"go on with it later: {open_backend(cfg).command_line('tune', f'resume={name}')}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_cli(main, __doc__)
