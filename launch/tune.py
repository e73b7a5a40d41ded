"""Searches hyperparameters: a Hydra sweep as one SageMaker tuning job, on this machine or on AWS.

    python -m launch.tune model=resnet34 lr=range                            generated images, on this machine
    python -m launch.tune model=resnet18,resnet34 'lr=tag(log,interval(1e-4,1e-1))' 'batch_size=choice(32,64)'
    python -m launch.tune lr=range data=folder data.url=PATH                 your own class folders
    python -m launch.tune lr=range backend=sagemaker data=s3 data.url=s3://BUCKET/PREFIX        at AWS
    python -m launch.tune ... dry_run=true                                   the exact request, checked, not sent
    python -m launch.tune resume=NAME                                        go on with a stopped sweep
    python -m launch.tune resume=NAME tuner.max_jobs=12                      to so many trainings in all

KEY=VALUE fixes a key of conf/train.yaml, KEY=RANGE searches it: a,b  choice()  interval()  range()  glob()
tag(log,...), or the word range for what conf/search declares. tuner=bayesian, tuner.max_jobs=12 and
tuner.max_parallel_jobs=4 steer the search. Ctrl-C stops the running trials and keeps the finished ones; a sweep at
AWS goes on, and python -m launch.status NAME --follow looks at it again. logs=true prints every line of the running
trials. What a sweep did lies in outputs/NAME.
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from launch.local.jobs.process import server_ahead

NOT_HERE = {"backend=sagemaker", "dry_run=true"}
"""Typed where no trial will run on this machine."""


def main(overrides: list[str]) -> int:
    """Runs one sweep; returns as `launch.runs.sweep.run_sweep` does."""
    with server_ahead(wanted=NOT_HERE.isdisjoint(overrides)):
        from launch.runs.sweep import run_sweep  # here: it takes its time, and so does the server

        return run_sweep(overrides)


if __name__ == "__main__":
    run_cli(main, __doc__)
