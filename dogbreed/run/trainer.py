"""Builds the Lightning trainer of a run, with its callbacks and loggers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from dogbreed.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from dogbreed.callbacks.metric_printer import MetricPrinter, StopOnDivergence
from dogbreed.callbacks.signals import StopOnSignal
from dogbreed.callbacks.weight_averaging import AveragedWeights
from dogbreed.errors import UserError
from dogbreed.models.targets import create, create_from
from dogbreed.run.distributed import StepPlan, TimmSyncBatchNorm, plan_steps


@dataclass(frozen=True)
class Run:
    """A trainer and the callbacks whose results are read after a training."""

    trainer: pl.Trainer
    steps: StepPlan
    printer: MetricPrinter
    best: BestCheckpoint
    stop: StopOnSignal


def build_run(cfg: DictConfig, output_dir: Path, recorders: Sequence[pl.Callback] = ()) -> Run:
    """Returns the configured trainer with our callbacks, the user's (`+trainer.callbacks`) and the `recorders`.

    Raises:
        UserError: The batch sizes do not fit together.
    """
    steps = plan_steps(cfg, _num_processes(cfg))
    averaging = AveragedWeights(cfg.averaging, cfg.averaging_decay, cfg.averaging_start) if cfg.averaging else None
    printer = MetricPrinter()
    best = BestCheckpoint(cfg.checkpoint_dir, cfg.objective.metric, cfg.objective.goal, averaging)
    last = LastCheckpoint(Path(cfg.checkpoint_dir) / "last.ckpt", cfg.checkpoint_s, at_end=cfg.checkpoint_at_end)
    stop = StopOnSignal(last)
    callbacks: list[pl.Callback] = [printer, StopOnDivergence(), best, last, stop, *recorders]
    if averaging:
        callbacks.insert(0, averaging)  # before all that validates or saves
    interactive = sys.stderr.isatty()
    if interactive:
        callbacks.append(TQDMProgressBar(leave=True))
    settings: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    given = {name: settings.pop(name, None) for name in ("callbacks", "logger", "plugins")}
    plugins = [AtomicCheckpointIO(), *([TimmSyncBatchNorm()] if settings.get("sync_batchnorm") else [])]
    trainer: pl.Trainer = create_from(
        "trainer",
        settings | {"accumulate_grad_batches": steps.accumulate_grad_batches},
        callbacks=[*callbacks, *_instances("callbacks", given["callbacks"])],
        logger=_loggers(output_dir, given["logger"]),
        plugins=[*plugins, *_instances("plugins", given["plugins"])],
        default_root_dir=str(output_dir),
        enable_progress_bar=interactive,
        enable_model_summary=False,
    )
    return Run(trainer, steps, printer, best, stop)


def _num_processes(cfg: DictConfig) -> int:
    """Returns the number of processes of the training, which only a trainer can resolve for `devices=auto`."""
    names = ("accelerator", "devices", "num_nodes", "strategy")
    given: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    settings = {name: given[name] for name in names if name in given}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer: pl.Trainer = create("trainer", pl.Trainer, **settings, **quiet, enable_model_summary=False)
    return trainer.world_size


def _loggers(output_dir: Path, given: Any) -> list[Any]:
    """Returns the loggers of a run: CSV and TensorBoard, and the user's; none with `trainer.logger=false`."""
    if given is False:
        return []
    return [
        CSVLogger(output_dir, name="", version=""),
        TensorBoardLogger(output_dir, name="tensorboard", version="", default_hp_metric=False),
        *_instances("logger", None if given is True else given),
    ]


def _instances(name: str, given: Any) -> list[Any]:
    """Returns the objects that `trainer.NAME` describes: `{"_target_": ...}`, a list of these, or None."""
    items = [given] if isinstance(given, Mapping) else [] if given is None else given
    if not isinstance(items, list) or not all(isinstance(item, Mapping) and "_target_" in item for item in items):
        raise UserError(f"trainer.{name}={given}: give each as {{_target_: CLASS, ARGUMENT: VALUE}}")
    try:
        return [instantiate(item) for item in items]
    except HydraException as error:
        raise UserError(f"trainer.{name}: {' '.join(str(error).split())}") from error
