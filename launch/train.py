"""Trains one classifier as a SageMaker training job, on this machine or on AWS.

    python -m launch.train from_tuning=NAME                  with the settings of the best trial of a sweep
    python -m launch.train from_tuning=NAME epochs=20        the same with more epochs; other overrides take precedence
    python -m launch.train model=resnet34 lr=0.003           with the given overrides alone
    python -m launch.train ... backend=sagemaker             on AWS
    python -m launch.train ... dry_run=true                  print the validated request, send nothing

Ctrl-C stops the job on this machine; on AWS it keeps running, and python -m launch.status NAME --follow follows it
again. The exit status is 0 if the job completed, 1 if it did not.
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from launch.runs.training import run_training
from launch.spec.settings import SCHEMAS


def main(overrides: list[str]) -> int:
    """Runs one training job; returns its exit status."""
    return run_training(overrides)


if __name__ == "__main__":
    run_cli(main, __doc__, SCHEMAS["training"], "training")
