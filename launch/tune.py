"""Searches hyperparameters: one Hydra sweep becomes one SageMaker tuning job, on this machine or on AWS.

    python -m launch.tune model=resnet34 lr=range                            generated images, on this machine
    python -m launch.tune model=resnet18,resnet34 'lr=tag(log,interval(1e-4,1e-1))' 'batch_size=choice(32,64)'
    python -m launch.tune lr=range data=folder data.url=PATH                 your own class folders
    python -m launch.tune lr=range backend=sagemaker data=s3 data.url=s3://BUCKET/PREFIX        on AWS
    python -m launch.tune ... dry_run=true                                   print the validated request, send nothing
    python -m launch.tune resume=NAME                                        resume a stopped sweep
    python -m launch.tune resume=NAME tuner.max_jobs=12                      resume it up to 12 trials in all

KEY=VALUE fixes a key of conf/train.yaml. KEY=RANGE searches it: a,b  choice()  interval()  range()  glob()
tag(log,...), or the word range for the range that conf/search declares. tuner=bayesian, tuner.max_jobs=12 and
tuner.max_parallel_jobs=4 control the search. logs=true prints all log lines of running trials. Ctrl-C stops the running
trials and keeps the finished ones; a sweep on AWS keeps running, and python -m launch.status NAME --follow follows it
again. Results are in outputs/NAME.
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from launch.runs.sweep import run_sweep
from launch.spec.settings import SCHEMAS


def main(overrides: list[str]) -> int:
    """Runs one sweep; returns its exit status."""
    return run_sweep(overrides)


if __name__ == "__main__":
    run_cli(main, __doc__, SCHEMAS["tune"], "tune")
