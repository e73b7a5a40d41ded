"""Several processes that train one model, a GPU each: how many images make a step, and at what learning rate."""

from __future__ import annotations

import logging
import math

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from dogbreed.errors import UserError

log = logging.getLogger(__name__)

REFERENCE = 256
"""Images a step for which `lr` is meant where it is scaled."""

_POWERS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


def accumulation(effective_batch_size: int, batch_size: int, num_processes: int) -> int:
    """Returns how many batches each process adds up for one step of the optimizer.

    Args:
        effective_batch_size: Images a step, in all processes together.
        batch_size: Images a batch, in each process.
        num_processes: That train together.

    Raises:
        UserError: it is no whole number.
    """
    at_once = batch_size * num_processes
    batches, rest = divmod(effective_batch_size, at_once)
    if rest or not batches:
        near = max(1, round(effective_batch_size / at_once)) * at_once
        raise UserError(
            f"effective_batch_size={effective_batch_size} is no multiple of batch_size={batch_size} times "
            f"{num_processes} processes: type effective_batch_size={near}, or another batch_size"
        )
    return batches


def scaled_lr(lr: float, rule: str, num_images: int) -> float:
    """Returns the learning rate for steps of `num_images`, where `lr` is that for steps of 256.

    Args:
        lr: At its peak.
        rule: `linear`, as Goyal et al. (2017) have it for SGD, together with a warm-up; `sqrt`, which suits Adam
            (Krizhevsky, 2014; Malladi et al., 2022); or `none`.
        num_images: In all processes, and all batches that are added up.
    """
    return lr * math.pow(num_images / REFERENCE, _POWERS[rule])


def with_steps(cfg: DictConfig, trainer: pl.Trainer) -> DictConfig:
    """Returns `cfg` with the learning rate for the images of a step, as many of which `trainer` now adds up."""
    if cfg.effective_batch_size:
        if cfg.trainer.get("accumulate_grad_batches"):
            raise UserError("effective_batch_size and trainer.accumulate_grad_batches say the same: give one of them")
        trainer.accumulate_grad_batches = accumulation(cfg.effective_batch_size, cfg.batch_size, trainer.world_size)
    processes, batches = trainer.world_size, trainer.accumulate_grad_batches
    num_images = cfg.batch_size * processes * batches
    lr = scaled_lr(cfg.lr, cfg.lr_scaling, num_images)
    if num_images != cfg.batch_size or lr != cfg.lr:
        log.info(
            "a step: %d images (batch_size %d, processes %d, batches each %d), lr %.4g",
            num_images, cfg.batch_size, processes, batches, lr,
        )  # fmt: skip
    return OmegaConf.merge(cfg, {"lr": lr})  # type: ignore[return-value]


class SyncNorms(TorchSyncBatchNorm):
    """Batch norms over the images of all processes, for Lightning's `sync_batchnorm`.

    torch's own conversion, Lightning's default, drops the activation that timm's networks have in their norms. They
    stay converted: in one process they are what they were.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Returns `model` with its norms converted."""
        return convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Returns `model`."""
        return model
