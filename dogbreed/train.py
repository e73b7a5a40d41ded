"""Trains, tests and saves one classifier.

    python -m dogbreed.train                                             generated images, on any machine
    python -m dogbreed.train model=resnet34 data=folder data.url=PATH    your own class folders
    python -m dogbreed.train trainer=debug                               one batch of each stage, for debugging

KEY=VALUE changes a setting. Results are in outputs/NAME: config.yaml, metrics.csv, tensorboard/, results.json,
report.html, checkpoints/best.ckpt and last.ckpt (resume with resume_from=PATH), and model/, the best model in the
format that endpoints serve. A folder with the results of another run is not overwritten.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from dogbreed.cli.command import run_cli
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.cli.schema import TRAINING
from dogbreed.errors import UserError

NAME = "DOGBREED_NAME"
"""Environment variable that passes the training's name to the processes that it starts."""


def set_up_logging() -> None:
    """Logs plain lines to standard error, and hides routine messages of the libraries.

    In a distributed training only the first process logs progress.
    """
    level = logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for name in ("pytorch_lightning", "lightning.pytorch", "timm", "fsspec", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*LeafSpec.*is deprecated.*",
        ".*smaller than the logging interval.*",
        ".*recommended to use `self.log.*sync_dist=True.*",
    ):  # the metrics themselves share their counts
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def main(overrides: list[str]) -> int:
    """Runs one training from Hydra `overrides`; returns the exit status: 0, or 128 + the signal that stopped it."""
    if "LOCAL_RANK" in os.environ:
        of_parent = [f"name={os.environ[NAME]}"] if NAME in os.environ else []
        return run(compose("train", [*overrides, *of_parent]), overrides)
    cfg = resolve_defaults(compose("train", overrides))
    if cfg.resume_from is None:
        check_unused(Path(cfg.output_dir), Path(cfg.checkpoint_dir))
    return run(cfg, overrides)


def check_unused(output_dir: Path, checkpoint_dir: Path) -> None:
    """Checks that a new run does not overwrite the results of another one.

    Raises:
        UserError: The folders have results or checkpoints, or belong to a job of the launcher.
    """
    checkpoint = checkpoint_dir / "last.ckpt"
    files = [output_dir / "results.json", output_dir / "request.json", checkpoint_dir / "best.ckpt", checkpoint]
    if any(file.exists() for file in files):
        hint = f", or continue it with resume_from={checkpoint}" if checkpoint.exists() else ""
        raise UserError(f"{output_dir} has the results of another run: choose another name, name=NAME{hint}")


def run(cfg: DictConfig, overrides: Sequence[str]) -> int:
    """Runs the training that `cfg`, composed of `overrides`, describes; returns the exit status."""
    cfg = resolve_defaults(cfg)
    os.environ[NAME] = cfg.name
    from dogbreed.run.distributed import destroy_process_group
    from dogbreed.run.train import train  # here, so that --help and errors need no torch

    set_up_logging()  # after Lightning, which sets log levels when it is imported
    results = train(cfg, overrides)
    destroy_process_group()
    return 0 if results["stopped_by"] is None else {"SIGTERM": 143, "SIGINT": 130}[results["stopped_by"]]


if __name__ == "__main__":
    run_cli(main, __doc__, TRAINING, "train")
