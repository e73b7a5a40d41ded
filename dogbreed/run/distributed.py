"""Batch size and learning rate of a training in one or several processes, and batch norms across them."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import torch.distributed
from omegaconf import DictConfig
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from dogbreed.errors import UserError

log = logging.getLogger(__name__)

REFERENCE_BATCH_SIZE = 256
"""Images per optimizer step that `lr` refers to when it is scaled."""

_POWERS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


class StepPlan(NamedTuple):
    """Batches and learning rate of an optimizer step."""

    accumulate_grad_batches: int
    lr: float
    """Peak learning rate, scaled to the images of a step."""


def plan_steps(cfg: DictConfig, num_processes: int) -> StepPlan:
    """Returns the accumulation and learning rate for the batch sizes of a resolved `cfg` of conf/train.yaml.

    Raises:
        UserError: `effective_batch_size` is not a multiple of the batches of all processes, or accumulation is also set
            by `trainer.accumulate_grad_batches`.
    """
    batches = int(cfg.trainer.get("accumulate_grad_batches") or 0)
    if cfg.effective_batch_size:
        if batches:
            raise UserError("effective_batch_size and trainer.accumulate_grad_batches exclude each other: set one")
        batches = accumulation(cfg.effective_batch_size, cfg.batch_size, num_processes)
    batches = max(1, batches)
    num_images = cfg.batch_size * num_processes * batches
    lr = scaled_lr(cfg.lr, cfg.lr_scaling, num_images)
    if num_images != cfg.batch_size or lr != cfg.lr:
        log.info(
            "optimizer step: %d images (batch_size %d, processes %d, accumulated batches %d), lr %.4g",
            num_images, cfg.batch_size, num_processes, batches, lr,
        )  # fmt: skip
    return StepPlan(batches, lr)


def destroy_process_group() -> None:
    """Destroys the process group of this process, if it has one.

    Lightning destroys only NCCL's. The threads of a Gloo group that is left to the interpreter's exit can abort the
    process after a finished training (https://github.com/pytorch/pytorch/issues/190489).
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def accumulation(effective_batch_size: int, batch_size: int, num_processes: int) -> int:
    """Returns how many batches each of `num_processes` accumulates for a step of `effective_batch_size` images in all.

    Raises:
        UserError: It is not a whole number.
    """
    at_once = batch_size * num_processes
    batches, rest = divmod(effective_batch_size, at_once)
    if rest or not batches:
        nearest = max(1, round(effective_batch_size / at_once)) * at_once
        raise UserError(
            f"effective_batch_size={effective_batch_size} is not a multiple of batch_size={batch_size} times "
            f"{num_processes} processes: type effective_batch_size={nearest}, or another batch_size"
        )
    return batches


def scaled_lr(lr: float, rule: str, num_images: int) -> float:
    """Returns the learning rate for optimizer steps of `num_images`, if `lr` is meant for steps of 256.

    Args:
        lr: Peak learning rate.
        rule: `linear`, for SGD with warm-up (Goyal et al., 2017); `sqrt`, for Adam (Krizhevsky, 2014; Malladi et al.,
            2022); or `none`.
        num_images: Images per step, in all processes and accumulated batches.
    """
    return lr * math.pow(num_images / REFERENCE_BATCH_SIZE, _POWERS[rule])


class TimmSyncBatchNorm(TorchSyncBatchNorm):
    """Batch norms over the images of all processes, for Lightning's `sync_batchnorm`, in timm's networks.

    torch's own conversion, Lightning's default, drops the activation that timm's norms contain. The norms stay
    converted after the training: in one process they compute the same.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Returns `model` with its norms converted."""
        return convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Returns `model`."""
        return model
