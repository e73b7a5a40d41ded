"""Cached features in a run: when they are used, and solving the head on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.errors import UserError
from dogbreed.features import FeatureDataModule, NotCacheableError
from dogbreed.features.store import DiskFullError, Features
from dogbreed.models.classifier import ImageClassifier
from dogbreed.models.freezing import FROZEN
from dogbreed.models.linear_probe import IGNORED, fit_linear_probe
from dogbreed.models.targets import create_from

log = logging.getLogger(__name__)


def load_features(
    cfg: DictConfig, trainer: pl.Trainer, model: ImageClassifier, data: ImageDataModule
) -> dict[str, list[Features]]:
    """Returns the cached features that the run of `cfg` uses, by split; {} if the backbone runs on images.

    Raises:
        UserError: The run needs features (`finetune=linear_probe`, `head_start`, `features.views`), but they are off or
            would change the training.
    """
    needed = _needs_features(cfg)
    if not cfg.features._target_:
        if needed:
            raise UserError(f"{needed} needs cached features: omit features=off")
        return {}
    if cfg.resume_from and cfg.finetune not in FROZEN:
        return {}  # the head comes from the checkpoint
    try:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise NotCacheableError("trainer.fast_dev_run uses a single batch")
        cache = create_from("features", OmegaConf.to_container(cfg.features, resolve=True))  # type: ignore[arg-type]
        features: dict[str, list[Features]] = cache.load(
            model, data, device=trainer.strategy.root_device, precision=str(trainer.precision)
        )
    except (NotCacheableError, DiskFullError) as reason:
        if needed:
            raise UserError(f"{needed} is not available: {reason}") from None
        log.info("no cached features, the backbone runs in every epoch: %s", reason)
        return {}
    return features


def _needs_features(cfg: DictConfig) -> str:
    if cfg.features.get("views"):
        return f"features.views={cfg.features.views}"
    if cfg.finetune == "linear_probe":
        return "finetune=linear_probe"
    return f"head_start={cfg.head_start}" if cfg.head_start and not cfg.resume_from else ""


def solve_head(model: ImageClassifier, data: ImageDataModule, views: Sequence[Features]) -> dict[str, float]:
    """Puts the head of `model` at its optimum for cached features of train; returns train/loss and train/accuracy.

    Skipped images do not count. With `data.balanced` all classes count equally.
    """
    keys, labels = data.keys("train"), []
    for view in views:
        known = data.splits["train"].labels.copy()
        known[list(view.problems)] = IGNORED
        labels.append(known)
        for row, reason in view.problems.items():
            data.skip_image(keys[row], reason)
    return fit_linear_probe(model, [view.values for view in views], labels, balanced=data.balanced)


def training_batches(
    cfg: DictConfig, data: ImageDataModule, features: dict[str, list[Features]]
) -> ImageDataModule | FeatureDataModule:
    """Returns the data module to train and test on: features if the backbone stays frozen and they are cached."""
    return FeatureDataModule(data, features) if features and cfg.finetune in FROZEN else data
