"""PredictionRecorder: class probabilities of validation and test images, and thumbnails of the worst mistakes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional

from dogbreed.debugger import files
from dogbreed.debugger.record.network import logits_of, normalization, root_module
from dogbreed.debugger.record.recorder import Recorder, safe_hook
from dogbreed.debugger.record.run_settings import class_names, split_keys
from dogbreed.debugger.record.thumbnails import SIDE_PX, thumbnails, write_jpeg

log = logging.getLogger(__name__)

_NUM_MISTAKES = 24
"""Mistakes with a thumbnail: the ones with the highest loss."""


class Mistake(NamedTuple):
    """A misclassified image."""

    loss: float
    position: int
    """Position in the split's list."""
    image: Tensor | None
    """(3, H, W) uint8; None if the network received cached features."""


class _Rows(NamedTuple):
    """One batch."""

    probabilities: Tensor
    """(B, C) float16 softmax."""
    labels: Tensor
    """(B,) integers."""
    indices: Tensor
    """(B,) positions in the split's list."""


class PredictionRecorder(Recorder):
    """Records the probabilities of the latest validation and of the test, and thumbnails of the worst test mistakes.

    It reads `logits` from the dict that `validation_step` and `test_step` return, or else the network's output with a
    forward hook, so it works with any LightningModule. Batches must be
    `(images, labels[, indices])` with class numbers of shape (B,); others are ignored after one log line.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._handle: Any = None
        self._logits: Tensor | None = None
        self._rows: list[_Rows] = []
        self._num_rows = 0
        self._mistakes: list[Mistake] = []
        self._ignores = False

    @safe_hook
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts recording, except in the sanity check."""
        if not trainer.sanity_checking:
            self._start(trainer, pl_module)

    @safe_hook
    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *numbers: int
    ) -> None:
        """Records a batch of the first data loader."""
        if self._handle is not None and not any(numbers[1:]):  # (batch_idx, dataloader_idx)
            self._record(batch, outputs, pl_module, with_images=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the predictions."""
        if not trainer.sanity_checking:
            self._finish(trainer, pl_module, "val")

    @safe_hook
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts recording."""
        self._start(trainer, pl_module)

    @safe_hook
    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *numbers: int
    ) -> None:
        """Records a batch of the first data loader and thumbnails of its mistakes."""
        if self._handle is not None and not any(numbers[1:]):  # (batch_idx, dataloader_idx)
            self._record(batch, outputs, pl_module, with_images=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes predictions and thumbnails."""
        self._finish(trainer, pl_module, "test")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Removes the forward hook."""
        self.release(trainer)

    def release(self, trainer: pl.Trainer) -> None:
        """Removes the forward hook and drops what was recorded in this pass."""
        self._unhook()
        self._rows, self._num_rows, self._mistakes = [], 0, []

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.release(trainer)

        def keep_logits(_: Any, __: Any, output: Any) -> None:
            self._logits = logits_of(output)

        self._handle = root_module(pl_module).register_forward_hook(keep_logits)

    def _unhook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._logits = None

    @torch.no_grad()
    def _record(self, batch: Any, outputs: Any, pl_module: pl.LightningModule, with_images: bool) -> None:
        logits, self._logits = self._logits, None
        if isinstance(outputs, Mapping) and "logits" in outputs:
            logits = logits_of(outputs["logits"])
        problem = _problem(logits, batch)
        if problem or logits is None:
            if problem and not self._ignores:
                log.warning("predictions are not recorded: %s", problem)
            self._ignores = self._ignores or bool(problem)
            return
        labels = batch[1].detach().to(logits.device)
        count, world = len(labels), pl_module.trainer.world_size
        indices = torch.arange(self._num_rows, self._num_rows + count) * world + pl_module.global_rank
        if len(batch) > 2 and isinstance(batch[2], Tensor) and batch[2].shape == (count,):
            indices = batch[2]
        # float16 on the device: NumPy takes far longer to round numbers that are too small for it.
        self._rows.append(_Rows(logits.float().softmax(dim=1).half(), labels, indices))
        self._num_rows += count
        if with_images:
            self._keep_mistakes(batch[0], logits.float(), labels, indices, pl_module)

    def _keep_mistakes(
        self, images: Any, logits: Tensor, labels: Tensor, indices: Tensor, pl_module: pl.LightningModule
    ) -> None:
        wrong = (logits.argmax(dim=1) != labels).nonzero().flatten()
        if not len(wrong):
            return
        losses = functional.cross_entropy(logits[wrong], labels[wrong], reduction="none").tolist()
        shown: Any = [None] * len(wrong)
        if isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == 3:
            shown = thumbnails(images[wrong.to(images.device)], normalization(pl_module))
        positions = indices[wrong.to(indices.device)].tolist()
        self._mistakes += map(Mistake, losses, positions, shown)
        self._mistakes = _worst(self._mistakes)

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str) -> None:
        """Writes what all processes recorded; collective, so a process whose recorder failed takes part too."""
        self._unhook()
        rows = [_Rows(*(part.cpu() for part in row)) for row in self._rows]
        shares = [(rows, self._mistakes)]
        self.release(trainer)
        if trainer.world_size > 1:
            shares *= trainer.world_size
            torch.distributed.all_gather_object(shares, shares[0])
        rows = [row for share, _ in shares for row in share]
        if trainer.is_global_zero and rows:
            self._write(trainer, pl_module, split, rows, _worst([one for _, found in shares for one in found]))

    @safe_hook
    def _write(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str, rows: list[_Rows], worst: list[Mistake]
    ) -> None:
        """Writes `predictions-SPLIT.npz` and the thumbnails."""
        data = getattr(trainer, "datamodule", None)
        probabilities, labels, indices = (torch.cat(column).numpy() for column in zip(*rows, strict=True))
        # A distributed sampler repeats images so that all processes get equally many.
        _, once = np.unique(indices, return_index=True)
        folder = self.folder / files.DEBUG
        arrays = {
            "probabilities": probabilities[once],
            "labels": labels[once].astype(np.int64),
            "indices": indices[once].astype(np.int64),
            "classes": np.array(class_names(data, pl_module), dtype=np.str_),
            "keys": np.array(split_keys(trainer, split), dtype=np.str_),
        }
        files.write_npz(folder / f"predictions-{split}.npz", arrays, compress=False)  # fast: after each epoch
        images = {mistake.position: mistake.image for mistake in worst}
        missing = [index for index, image in images.items() if image is None]
        if missing and data is not None and callable(getattr(data, "images", None)):
            fetched = data.images(split, missing, SIDE_PX)
            images |= dict(zip(fetched.indices.tolist(), fetched.images, strict=True))
        for index, image in images.items():
            if image is not None:
                write_jpeg(folder / "thumbs" / f"{split}-{index}.jpg", image)


def _worst(mistakes: Sequence[Mistake]) -> list[Mistake]:
    return sorted(mistakes, key=lambda mistake: -mistake.loss)[:_NUM_MISTAKES]


def _problem(logits: Tensor | None, batch: Any) -> str:
    """Returns why a batch cannot be recorded, "" if it can or is empty."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return "batches must be (images, labels[, indices])"
    labels = batch[1]
    if logits is None:
        is_empty = isinstance(labels, Tensor) and not len(labels)
        return "" if is_empty else "the network's output is not one (B, C) tensor of logits"
    if not isinstance(labels, Tensor) or labels.shape != (len(logits),) or labels.is_floating_point():
        got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        return f"labels must be class numbers of shape ({len(logits)},), got {got}"
    return ""
