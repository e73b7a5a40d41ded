"""One training, from its settled config to what it leaves: fits, tests and saves one classifier.

What it did lies in the config's `output_dir`: config.yaml, metrics.csv, tensorboard/, results.json, report.html,
checkpoints/best.ckpt and last.ckpt, and model/, the best model as an endpoint serves it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from dogbreed.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from dogbreed.callbacks.training import MetricLines, StopOnSignal, unhook_idle
from dogbreed.callbacks.weight_averaging import AveragedWeights
from dogbreed.data.transforms import InputSpec
from dogbreed.debugger import debugger_callbacks, write_report
from dogbreed.errors import UserError
from dogbreed.models.backbones import count_parameters
from dogbreed.models.classifier import ImageClassifier
from dogbreed.models.hyperparameters import Hyperparameters
from dogbreed.run.distributed import SyncNorms, with_steps
from dogbreed.run.results import best_of, save, show
from dogbreed.serving.bundle import make_card, write_model
from dogbreed.system.settings import pick

log = logging.getLogger(__name__)


def train(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Fits and tests what the settled `cfg` describes; returns what is written to `results.json`.

    Args:
        cfg: Of conf/train.yaml.
        overrides: What it was made by, for the model's card.

    Raises:
        UserError: unreadable data, unknown model, missing weights, an output folder that cannot be written.
    """
    started = time.time()
    output_dir = _make_output_dir(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = instantiate(cfg.data)
    if cfg.objective.metric.startswith("val/") and not data.keys("valid"):
        raise UserError(
            f"objective.metric={cfg.objective.metric} needs images in valid, of which there are none: type "
            "data.valid_fraction=0.1, or objective.metric=train/loss objective.goal=minimize"
        )
    last = LastCheckpoint(Path(cfg.checkpoint_dir) / "last.ckpt", cfg.checkpoint_s, at_end=cfg.checkpoint_at_end)
    averaging = [AveragedWeights(cfg.averaging, cfg.averaging_decay, cfg.averaging_start)] if cfg.averaging else []
    objective = cfg.objective
    best = BestCheckpoint(cfg.checkpoint_dir, objective.metric, objective.goal, *averaging, every_s=cfg.checkpoint_s)
    lines, stop = MetricLines(), StopOnSignal(last)
    recorders = debugger_callbacks(cfg.debugger, output_dir)
    keep = [instantiate(cfg.features)] if cfg.features._target_ else []
    trainer = _create_trainer(cfg, output_dir, [*averaging, lines, stop, best, last, *recorders, *keep])
    cfg = with_steps(cfg, trainer)
    model = create_model(cfg, data.classes)
    _introduce(cfg, model)
    trainer.fit(model, data, ckpt_path=_existing(cfg.resume_from))
    results: dict[str, Any] = {"name": cfg.name, "stopped_by": stop.received.name if stop.received else None}
    if not stop.received:
        kept = None if best.is_in_place(trainer) else best.best_model_path or None
        trainer.test(model, data, ckpt_path=kept, verbose=False)
        results |= {"test": _metrics(trainer, "test/"), "classes": model.class_report()}
    results |= best_of(lines.history, objective.metric, objective.goal, best.since) | {
        "model": cfg.model.name,
        "weights": cfg.model.weights,
        "finetune": cfg.finetune,
        "data": cfg.data.url,
        "bad_images": dict(data.bad_images),
        "steps": trainer.global_step,
        "checkpoint": best.best_model_path or None,
        "seconds": round(time.time() - started, 1),
    }
    if trainer.is_global_zero:
        if cfg.model_dir and results["checkpoint"]:
            _leave_model(cfg, overrides, data.input_spec, results, model)
        save(results, output_dir)
        if recorders and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            results["issues"] = _report(cfg, output_dir)
            save(results, output_dir)
        show(results, output_dir)
    trainer.strategy.barrier("results")  # processes end together: one that is left alone may abort
    return results


def create_model(cfg: DictConfig, classes: list[str]) -> ImageClassifier:
    """Returns the classifier of a settled `cfg` for `classes` (folder names in label order)."""
    return ImageClassifier(
        cfg.model.name,
        classes,
        Hyperparameters(**pick(Hyperparameters, cfg)),
        weights=cfg.model.weights,
        optimizer=OmegaConf.to_container(cfg.optimizer, resolve=True),  # type: ignore[arg-type]
        scheduler=OmegaConf.to_container(cfg.scheduler, resolve=True),  # type: ignore[arg-type]
        model_kwargs=OmegaConf.to_container(cfg.model.kwargs, resolve=True),  # type: ignore[arg-type]
    )


def _make_output_dir(cfg: DictConfig) -> Path:
    path = Path(cfg.output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        Path(cfg.checkpoint_dir).mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, path / "config.yaml", resolve=True)
    except OSError as error:
        raise UserError(f"output_dir={path} cannot be written ({error.strerror}): give another one") from None
    return path


def _existing(path: str | None) -> str | None:
    if path is not None and not Path(path).is_file():
        raise UserError(f"resume_from={path}: no such file; a run leaves checkpoints/last.ckpt in its folder")
    return path


class _TensorBoard(TensorBoardLogger):
    """Its own thread writes at once; Lightning would wait for that at each logged step, for 0.4 ms."""

    def save(self) -> None:
        """Waits for nothing; `finalize` does."""


def _create_trainer(cfg: DictConfig, output_dir: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Returns the configured trainer; a progress bar is shown to people, not written to log files."""
    people = sys.stderr.isatty()
    loggers = [
        CSVLogger(output_dir, name="", version=""),
        _TensorBoard(output_dir, name="tensorboard", version="", default_hp_metric=False, flush_secs=1),
    ]
    if people:
        callbacks.append(TQDMProgressBar(leave=True))
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *([SyncNorms()] if cfg.trainer.get("sync_batchnorm") else [])],
        logger=loggers,
        default_root_dir=str(output_dir),
        enable_progress_bar=people,
        enable_model_summary=False,
    )
    unhook_idle(trainer.callbacks)  # type: ignore[attr-defined]
    return trainer


def _introduce(cfg: DictConfig, model: ImageClassifier) -> None:
    """Says which weights are used: nobody should train on random weights without knowing."""
    total, trained = count_parameters(model.net)
    log.info(
        "%s: weights %s, finetune %s, %.1f M parameters, %.2f M of them trained at the start",
        cfg.model.name, cfg.model.weights, cfg.finetune, total / 1e6, trained / 1e6,
    )  # fmt: skip


def _report(cfg: DictConfig, output_dir: Path) -> dict[str, str]:
    """Writes the report and returns what is wrong, by rule; a fault in it is no reason to lose a training."""
    try:
        report = write_report(output_dir, mlflow=cfg.debugger.get("mlflow"), say=not sys.stdout.isatty())
    except Exception as error:  # noqa: BLE001
        log.warning("there is no report: %s: %s", type(error).__name__, error)
        return {}
    # Names of classes are bytes, which the terminal may not take.
    return {finding.rule: finding.outcome.summary.encode(errors="replace").decode() for finding in report.issues}


def _metrics(trainer: pl.Trainer, prefix: str) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}


def _leave_model(
    cfg: DictConfig, overrides: Sequence[str], images: InputSpec, results: dict[str, Any], model: ImageClassifier
) -> None:
    """Leaves the best checkpoint as a model folder. Where it lies on this machine is none of the card's business."""
    if "test" not in results:  # the test had loaded it
        best = torch.load(results["checkpoint"], map_location="cpu", weights_only=True, mmap=True)
        model.load_state_dict(best["state_dict"])
    card = make_card(
        name=cfg.name,
        architecture=cfg.model.name,
        model_kwargs=OmegaConf.to_container(cfg.model.kwargs, resolve=True),  # type: ignore[arg-type]
        classes=model.classes,
        input_spec=images,
        metrics=results["best"] | results.get("test", {}),
        tta=cfg.tta,
        overrides=[text for text in overrides if text.lstrip("+").partition("=")[0] not in _PLACES],
    )
    write_model(Path(cfg.model_dir), model.net.state_dict(), card)


_PLACES = ("output_dir", "model_dir", "checkpoint_dir", "resume_from")
