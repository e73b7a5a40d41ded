"""One training, from its resolved config to its results: fits, tests and saves one classifier.

The run's `output_dir` contains config.yaml, overrides.yaml, metrics.csv, tensorboard/, results.json, report.html,
checkpoints/best.ckpt and last.ckpt, and model/, the best model as an endpoint serves it.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from dogbreed.callbacks.signals import TestInterruptedError
from dogbreed.data.datamodule import ImageDataModule
from dogbreed.debugger import debugger_callbacks, write_report
from dogbreed.debugger.files import clear_debug
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec
from dogbreed.models.classifier import ImageClassifier
from dogbreed.models.heads import count_parameters
from dogbreed.models.hyperparameters import Hyperparameters
from dogbreed.models.inputs import check_classes, check_size
from dogbreed.models.targets import create_from
from dogbreed.run.features import load_features, solve_head, training_batches
from dogbreed.run.results import print_results, save_results, summarise
from dogbreed.run.trainer import Run, build_run
from dogbreed.serving.bundle import make_card, write_model
from dogbreed.system.settings import pick

log = logging.getLogger(__name__)

_LOCAL_PATHS = ("output_dir", "model_dir", "checkpoint_dir", "resume_from")
"""Overrides that are written neither to the model card nor to the report."""


def train(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Fits and tests the classifier that a resolved config describes; returns the content of results.json.

    Raises:
        UserError: Unreadable data, an unknown model, unavailable weights, or an output folder that is not writable.
    """
    started = time.time()
    output_dir = _make_output_dir(cfg, overrides)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = create_from("data", OmegaConf.to_container(cfg.data, resolve=True))  # type: ignore[arg-type]
    _check_objective(cfg, data)
    recorders = debugger_callbacks(cfg.debugger, output_dir)
    run = build_run(cfg, output_dir, recorders)
    model = create_model(cfg, data.classes, run.steps.lr)
    data.input_spec = model.input_spec
    check_size(model.net, model.input_spec, data.input_spec.height, data.input_spec.width)
    _log_model(cfg, model)
    if cfg.resume_from:
        _load_weights(model, cfg)
    results = _fit_and_test(cfg, run, model, data) | {
        "model": cfg.model.name,
        "weights": cfg.model.weights,
        "finetune": cfg.finetune,
        "data": cfg.data.url,
        "bad_images": dict(data.bad_images),
        "steps": run.trainer.global_step,
        "checkpoint": run.best.path or None,
        "seconds": round(time.time() - started, 1),
    }
    if run.trainer.is_global_zero:
        if cfg.model_dir and results["checkpoint"]:
            _export_model(cfg, overrides, data.input_spec, results, model)
        save_results(results, output_dir)
        if recorders and not run.trainer.fast_dev_run:  # type: ignore[attr-defined]
            results["issues"] = _write_report(cfg, output_dir)
            save_results(results, output_dir)
        print_results(results, output_dir)
    run.trainer.strategy.barrier("results")  # a process that ends earlier may abort the others
    return results


def _fit_and_test(cfg: DictConfig, run: Run, model: ImageClassifier, data: ImageDataModule) -> dict[str, Any]:
    """Trains and tests `model`; returns the name, the metrics and the reason of an early stop."""
    features = load_features(cfg, run.trainer, model, data)
    solves = cfg.finetune == "linear_probe" or (cfg.head_start and not cfg.resume_from)
    solved = solve_head(model, data, features["train"]) if solves else {}
    batches = training_batches(cfg, data, features)
    if cfg.finetune == "linear_probe":
        if run.trainer.is_global_zero:
            clear_debug(Path(cfg.output_dir))  # records of an earlier run; a fit does so itself
        _validate(cfg, run, model, batches, solved)
    else:
        run.trainer.fit(model, batches, ckpt_path=cfg.resume_from)
        if not run.stop.received and not any(cfg.objective.metric in epoch for epoch in run.printer.history.values()):
            _validate(cfg, run, model, batches, {})  # the fit ended before its first validation
    results: dict[str, Any] = {"name": cfg.name}
    if not run.stop.received:
        if run.best.path:
            _load_best(run.trainer, model, run.best.path)
        with suppress(TestInterruptedError):
            run.trainer.test(model, batches, verbose=False)
            results |= {"test": _metrics(run.trainer, "test/"), "classes": model.class_report()}
    results["stopped_by"] = run.stop.received.name if run.stop.received else None
    return results | summarise(run.printer.history, cfg.objective.metric, cfg.objective.goal, run.best.since)


def _load_best(trainer: pl.Trainer, model: ImageClassifier, path: str) -> None:
    """Loads the best weights in all processes. Only the first host has the file, so its weights are broadcast."""
    weights = _read_checkpoint(path)["state_dict"] if trainer.is_global_zero else {}
    model.load_state_dict(trainer.strategy.broadcast(weights))


def _validate(
    cfg: DictConfig, run: Run, model: ImageClassifier, batches: pl.LightningDataModule, solved: Mapping[str, float]
) -> None:
    """Validates and saves the current weights as those of the last epoch, and logs the metrics of a `solved` head."""
    trainer = run.trainer
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    trainer.validate(model, batches, verbose=False)
    for logger in trainer.loggers if solved else ():
        logger.log_metrics(dict(solved), step=0)
        logger.save()
    epoch = max(run.printer.history, default=0)
    metrics = run.printer.history.get(epoch, {}) | _metrics(trainer, "val/") | dict(solved)
    run.printer.record(trainer, epoch, metrics)
    score = metrics.get(cfg.objective.metric, math.nan)
    if math.isfinite(score):
        run.best.save(trainer, model, score)


def create_model(cfg: DictConfig, classes: list[str], lr: float | None = None) -> ImageClassifier:
    """Returns the classifier of a resolved `cfg`; `lr` replaces its peak learning rate."""
    hyperparameters = Hyperparameters(**pick(Hyperparameters, cfg))
    return ImageClassifier(
        cfg.model.name,
        classes,
        hyperparameters if lr is None else hyperparameters.replace(lr=lr),
        weights=cfg.model.weights,
        optimizer=OmegaConf.to_container(cfg.optimizer, resolve=True),  # type: ignore[arg-type]
        scheduler=OmegaConf.to_container(cfg.scheduler, resolve=True),  # type: ignore[arg-type]
        model_kwargs=OmegaConf.to_container(cfg.model.kwargs, resolve=True),  # type: ignore[arg-type]
    )


def _make_output_dir(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    path = Path(cfg.output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        Path(cfg.checkpoint_dir).mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, path / "config.yaml", resolve=True)
        (path / "overrides.yaml").write_text(yaml.safe_dump(_without_local_paths(overrides)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"output_dir={path} cannot be written ({error.strerror}): give another one") from None
    return path


def _without_local_paths(overrides: Sequence[str]) -> list[str]:
    return [text for text in overrides if text.lstrip("+").partition("=")[0] not in _LOCAL_PATHS]


def _check_objective(cfg: DictConfig, data: ImageDataModule) -> None:
    if cfg.objective.metric.startswith("val/") and not data.keys("val"):
        more = "add images" if data.val_fraction else "type data.val_fraction=0.1"
        raise UserError(
            f"objective.metric={cfg.objective.metric} needs images in val, which has none: {more}, "
            "or objective.metric=train/loss objective.goal=minimize"
        )


def _log_model(cfg: DictConfig, model: ImageClassifier) -> None:
    total, trained = count_parameters(model.net)
    log.info(
        "%s: weights %s, finetune %s, %.1f M parameters, %.2f M of them trained at the start",
        cfg.model.name, cfg.model.weights, cfg.finetune, total / 1e6, trained / 1e6,
    )  # fmt: skip


def _load_weights(model: ImageClassifier, cfg: DictConfig) -> None:
    """Loads the weights to resume from, which cached features have to match; the trainer restores the rest later."""
    path = cfg.resume_from
    if cfg.finetune == "linear_probe":
        raise UserError("resume_from: a linear probe has no training steps to resume; start it again without")
    if not Path(path).is_file():
        raise UserError(f"resume_from={path}: no such file; a run saves checkpoints/last.ckpt in its folder")
    try:
        checkpoint = _read_checkpoint(path)
        if "optimizer_states" not in checkpoint:
            raise ValueError("weights without the state of a training")
        check_classes(model.classes, checkpoint["hyper_parameters"]["classes"])
        model.load_state_dict(checkpoint["state_dict"])
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"resume_from={path} is not a checkpoint that this model can resume from ({reason}); to use its weights "
            f"alone, type model.weights={path}"
        ) from error


def _read_checkpoint(path: str) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return checkpoint


def _write_report(cfg: DictConfig, output_dir: Path) -> dict[str, str]:
    """Writes the report; returns the summary of each issue by rule. An error in it does not fail the training."""
    try:
        report = write_report(output_dir, print_findings=not sys.stdout.isatty())
    except Exception as error:  # noqa: BLE001
        log.warning("there is no report: %s: %s", type(error).__name__, error)
        return {}
    # Class names may be bytes that the terminal cannot print.
    return {finding.rule: finding.outcome.summary.encode(errors="replace").decode() for finding in report.issues}


def _metrics(trainer: pl.Trainer, prefix: str) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}


def _export_model(
    cfg: DictConfig, overrides: Sequence[str], images: InputSpec, results: dict[str, Any], model: ImageClassifier
) -> None:
    """Writes the best checkpoint as a model folder."""
    if "test" not in results:  # otherwise the test has loaded it
        model.load_state_dict(_read_checkpoint(results["checkpoint"])["state_dict"])
    card = make_card(
        name=cfg.name,
        architecture=cfg.model.name,
        model_kwargs=OmegaConf.to_container(cfg.model.kwargs, resolve=True),  # type: ignore[arg-type]
        classes=model.classes,
        input_spec=images,
        metrics=results["best"] | results.get("test", {}),
        tta=cfg.tta,
        overrides=_without_local_paths(overrides),
    )
    write_model(Path(cfg.model_dir), model.net.state_dict(), card)
