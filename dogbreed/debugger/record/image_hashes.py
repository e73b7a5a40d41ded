"""ImageHasher: perceptual hashes of a data set's images, from which rules find duplicates between splits.

Each image gets a 256-bit difference hash (dHash): the image as the network sees it in validation, in grey and 17 x 16
pixels; bit i is set if pixel i is brighter than its right neighbour. Re-encoding, scaling and small changes of
brightness leave nearly all bits unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional

from dogbreed.debugger import files
from dogbreed.debugger.record.recorder import Recorder, safe_hook
from dogbreed.debugger.record.run_settings import split_keys
from dogbreed.debugger.settings import ImageCheckSettings

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""

_SIDE_PX = 16


@torch.no_grad()
def difference_hashes(images: Tensor) -> list[int]:
    """Returns the 256-bit difference hash of each image of (N, 3, H, W), any real dtype and range."""
    weights = torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)
    grey = (images.float() * weights).sum(dim=1, keepdim=True)
    small = functional.interpolate(grey, size=(_SIDE_PX, _SIDE_PX + 1), mode="area")[:, 0]
    bits = (small[:, :, :-1] > small[:, :, 1:]).flatten(1).cpu().numpy()
    return [int.from_bytes(row.tobytes(), "little") for row in np.packbits(bits, axis=1, bitorder="little")]


class ImageHasher(Recorder):
    """Hashes the images of all splits after a fit, or after `Trainer.validate`, through the data module's loaders.

    Args:
        folder: The run's folder.
        max_images: Hashed images per split; the first ones of the split's list.
    """

    def __init__(self, folder: str | Path, *, max_images: int = ImageCheckSettings.max_images) -> None:
        self.folder = Path(folder)
        self.max_images = max_images

    @safe_hook
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes `debug/images.json`; does nothing for a data module without `loader(split)`."""
        self._hash_splits(trainer)

    @safe_hook
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes `debug/images.json` after a validation outside a fit."""
        if trainer.state.fn == "validate":
            self._hash_splits(trainer)

    def _hash_splits(self, trainer: pl.Trainer) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not callable(getattr(data, "loader", None)):
            return
        hashes = {split: self._hash_split(trainer, data, split) for split in ("train", "val", "test")}
        value = {
            "hashes": {split: {key: f"{bits:x}" for key, bits in found.items()} for split, found in hashes.items()},
            "bad": dict(getattr(data, "bad_images", {})),
            "num_images": sum(len(split_keys(trainer, split)) for split in hashes),
        }
        files.write_json(self.folder / files.DEBUG / files.IMAGES, value)

    def _hash_split(self, trainer: pl.Trainer, data: Any, split: str) -> dict[str, int]:
        """Returns image name to hash."""
        keys = split_keys(trainer, split)
        hashes: dict[str, int] = {}
        if not keys:
            return hashes
        for batch in data.loader(split):
            found = difference_hashes(batch[0])
            hashes |= {keys[index]: bits for index, bits in zip(batch[2].tolist(), found, strict=True)}
            if len(hashes) >= self.max_images:
                break
        return hashes
