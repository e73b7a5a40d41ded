"""Settings and machine of a run: the `settings` input of the rules."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from dogbreed.debugger.record.container_limits import read_limits
from dogbreed.debugger.record.network import is_compiled, is_pretrained, normalization

_HPARAMS = ("model", "weights", "lr", "weight_decay", "label_smoothing", "finetune", "unfreeze_epoch")


def describe_run(trainer: pl.Trainer, pl_module: pl.LightningModule, root: nn.Module) -> dict[str, Any]:
    """Returns the run's settings as plain data.

    Rules use `lr`, `batch_size`, `epochs`, `weight_decay`, `num_classes`, `num_workers`, `cores`, `finetune` and
    `initialization_s` (added by `SystemProfiler` after the first step). Unknown settings are None or absent.
    """
    data = getattr(trainer, "datamodule", None)
    hparams: Mapping[str, Any] = getattr(pl_module, "hparams", {})
    classes = class_names(data, pl_module)
    limits = read_limits()
    settings: dict[str, Any] = {
        key: hparams[key] for key in _HPARAMS if isinstance(hparams.get(key), (str, int, float, bool))
    }
    settings |= {
        "started": time.time(),
        "epochs": trainer.max_epochs,
        "batch_size": getattr(data, "batch_size", None),
        "num_workers": getattr(data, "num_workers", None),
        "classes": classes,
        "num_classes": len(classes) or None,
        "class_counts": _class_counts(data, classes),
        "data_url": str(getattr(data, "url", "")),
        "seed": os.environ.get("PL_GLOBAL_SEED"),  # where Lightning's seed_everything keeps it
        "optimizer": " and ".join(type(optimizer).__name__ for optimizer in trainer.optimizers),
        "network": type(root).__name__,
        "num_parameters": sum(parameter.numel() for parameter in root.parameters()),
        "num_trained": sum(p.numel() for p in root.parameters() if p.requires_grad),
        "pretrained": is_pretrained(pl_module),
        "compiled": is_compiled(pl_module),
        "device": str(pl_module.device),
        "precision": str(trainer.precision),
        "num_devices": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "torch": torch.__version__,
        "lightning": version("pytorch-lightning"),
        "cores": limits.cores,
        "memory_bytes": limits.memory_bytes,
    }
    settings |= {name: list(values) for name, values in normalization(pl_module).items()}
    if "lr" not in settings and trainer.optimizers:
        settings["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
    return settings


def class_names(data: Any, pl_module: pl.LightningModule) -> list[str]:
    """Returns the class names in label order: the data module's, else the model's, else numbers; [] if unknown."""
    for owner in (data, pl_module):
        classes = getattr(owner, "classes", None)
        if isinstance(classes, (list, tuple)) and classes:
            return [str(name) for name in classes]
    count = getattr(data, "num_classes", None) or getattr(pl_module, "num_classes", None)
    return [str(number) for number in range(count)] if isinstance(count, int) else []


def _class_counts(data: Any, classes: list[str]) -> dict[str, int]:
    """Returns the number of training images per class, {} if the data module does not count them."""
    counts = getattr(data, "class_counts", None)
    train = counts.get("train") if isinstance(counts, Mapping) else None
    if isinstance(train, Mapping):
        return {str(name): int(count) for name, count in train.items()}
    return dict(zip(classes, map(int, train), strict=True)) if train is not None and len(train) == len(classes) else {}


def split_keys(trainer: pl.Trainer, split: str) -> list[str]:
    """Returns the names of a split's images, [] if the data module does not know them."""
    keys = getattr(getattr(trainer, "datamodule", None), "keys", None)
    return [str(key) for key in keys(split)] if callable(keys) else []
