"""PredictionRecorder: what the network says about validation and test images, and small images of its mistakes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from dogbreed.debugger.files import DEBUG
from dogbreed.debugger.record.network import logits_of, root_module
from dogbreed.debugger.record.run_settings import class_names, split_keys

_SHOWN = 24
"""Mistakes whose images are written and shown: the ones with the highest loss."""

_SIDE_PX = 96

Mistake = tuple[float, int, Tensor | None]
"""(loss, index in the split, (3, H, W) uint8 image or None where the network saw kept features)."""


class PredictionRecorder(pl.Callback):
    """Keeps the probabilities of the newest validation and of the test, and images of the worst mistakes in the test.

    It listens to the network's output: whatever the LightningModule does with it, and however it is called.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._handle: Any = None
        self._logits: Tensor | None = None
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self._wrong: list[Mistake] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens to the validation; the sanity check is none."""
        if not trainer.sanity_checking:
            self._start(root_module(pl_module))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *at: Any
    ) -> None:
        """Adds a batch of the first loader."""
        if self._handle is not None and not any(at[1:]):
            self._batch(batch, pl_module, keep_images=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the predictions."""
        self._finish("valid", trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens to the test."""
        self._start(root_module(pl_module))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *at: Any
    ) -> None:
        """Adds a batch of the first loader, and images of the mistakes in it."""
        if self._handle is not None and not any(at[1:]):
            self._batch(batch, pl_module, keep_images=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes predictions and images."""
        self._finish("test", trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Takes the hook off."""
        self._stop()

    def _finish(self, split: str, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what the processes of the training have heard together, each its share of the images."""
        if self._handle is None:
            return
        self._stop()
        rows = [tuple(part.cpu() for part in row) for row in self._rows]
        shares = [(rows, self._wrong)]
        if trainer.world_size > 1:
            shares *= trainer.world_size
            torch.distributed.all_gather_object(shares, shares[0])
        rows = [row for share, _ in shares for row in share]
        if trainer.is_global_zero and rows:
            wrong = sorted((item for _, found in shares for item in found), key=lambda item: -item[0])
            classes = class_names(getattr(trainer, "datamodule", None), pl_module)
            self._save(split, classes, split_keys(trainer, split), rows)
            self._save_images(split, wrong, getattr(trainer, "datamodule", None))

    def _start(self, root: nn.Module) -> None:
        """Begins a pass over a split."""
        self._stop()
        self._rows, self._wrong = [], []
        self._handle = root.register_forward_hook(self._hear)

    def _hear(self, _: nn.Module, __: Any, output: Any) -> None:
        self._logits = logits_of(output)

    def _stop(self) -> None:
        """Takes the hook off."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._logits = None

    @torch.no_grad()
    def _batch(self, batch: Any, pl_module: pl.LightningModule, keep_images: bool) -> None:
        """Adds a batch `(images, labels[, indices])` with the logits that were heard for it."""
        logits, self._logits = self._logits, None
        if logits is None or not isinstance(batch, (tuple, list)) or len(batch) < 2 or len(batch[1]) != len(logits):
            return
        labels = batch[1].detach().to(logits.device)
        seen = sum(len(row[1]) for row in self._rows)
        mine = torch.arange(seen, seen + len(labels)) * pl_module.trainer.world_size + pl_module.global_rank
        indices = batch[2] if len(batch) > 2 else mine
        # They are kept as float16. NumPy, which minds each one that is too small for it, would take 3 ms for 600 rows.
        self._rows.append((logits.float().softmax(dim=1).half(), labels, indices))
        if keep_images:
            self._keep_mistakes(batch[0], logits.float(), labels, indices, pl_module)

    def _keep_mistakes(
        self, images: Tensor, logits: Tensor, labels: Tensor, indices: Tensor, pl_module: pl.LightningModule
    ) -> None:
        wrong = (logits.argmax(dim=1) != labels).nonzero().flatten()
        if not len(wrong):
            return
        losses = functional.cross_entropy(logits[wrong], labels[wrong], reduction="none").tolist()
        thumbnails: Any = [None] * len(wrong)  # of features; those that are shown are fetched at the end
        if images.ndim == 4 and images.shape[1] == 3:
            thumbnails = as_pixels(_small(images[wrong].float()), getattr(pl_module, "data_config", None)).cpu()
        for loss, index, image in zip(losses, indices[wrong.to(indices.device)].tolist(), thumbnails, strict=True):
            self._wrong.append((loss, index, image))
        self._wrong = sorted(self._wrong, key=lambda item: -item[0])[:_SHOWN]

    def _save(self, split: str, classes: list[str], keys: list[str], rows: list[Any]) -> None:
        """Writes `predictions-SPLIT.npz`."""
        probabilities, labels, indices = (torch.cat(column).numpy() for column in zip(*rows, strict=True))
        # A sampler that gives each process equally many images gives some of them twice.
        _, once = np.unique(indices, return_index=True)
        folder = self.folder / DEBUG
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(  # after each epoch: to compress costs more than all else here
            folder / f"predictions-{split}.npz",
            probabilities=probabilities[once],
            labels=labels[once].astype(np.int64),
            indices=indices[once].astype(np.int64),
            classes=np.array(classes, dtype=np.str_),
            keys=np.array(keys, dtype=np.str_),
        )

    def _save_images(self, split: str, wrong: list[Mistake], data: Any) -> None:
        """Writes the images of the worst mistakes; those that were not seen themselves are fetched now."""
        images = {index: image for _, index, image in wrong[:_SHOWN]}
        unseen = [index for index, image in images.items() if image is None]
        if unseen and callable(getattr(data, "images", None)):
            fetched = data.images(split, unseen, _SIDE_PX)
            images |= dict(zip(fetched.indices.tolist(), fetched.images, strict=True))
        for index, image in images.items():
            if image is not None:
                write_jpeg(self.folder / DEBUG / "thumbs" / f"{split}-{index}.jpg", image)


def _small(images: Tensor) -> Tensor:
    return functional.interpolate(images, size=(_SIDE_PX, _SIDE_PX), mode="area")


def as_pixels(images: Tensor, data_config: Any) -> Tensor:
    """Returns (N, 3, H, W) uint8 of normalised images; without a normalisation known, stretched to 0..255."""
    if isinstance(data_config, dict) and "mean" in data_config and "std" in data_config:
        mean, std = (torch.tensor(data_config[key], device=images.device).view(3, 1, 1) for key in ("mean", "std"))
        images = images * std + mean
    else:
        low, high = images.amin(), images.amax()
        images = (images - low) / (high - low).clamp_min(1e-6)
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def write_jpeg(path: Path, image: Tensor) -> None:
    """Writes a (3, H, W) uint8 image."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "JPEG", quality=82)
    path.write_bytes(buffer.getvalue())
