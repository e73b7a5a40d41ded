"""Computes the features of a frozen backbone in one pass over the images."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.data.loader import ImageLoader
from dogbreed.features.runtime import BackboneRuntime, Context, create_runtime, feature_network
from dogbreed.features.store import FeatureFiles
from dogbreed.input_spec import InputSpec

log = logging.getLogger(__name__)

_SAMPLE = 32
"""Images on which the runtimes of a backbone are compared."""


@dataclass(frozen=True)
class FeatureView:
    """One set of features: a split of the images, as the network sees it in one epoch."""

    name: str
    """Name of the files."""
    split: str
    epoch: int | None = None
    """Epoch whose random crops are used; None: images as in evaluation."""
    flips: tuple[bool, ...] = (False,)
    """Whether each averaged side is mirrored; (False, True) for TTA."""


class FeatureExtractor:
    """Runs the backbone of `net`, which has a linear head, over views of the data."""

    def __init__(
        self,
        data: ImageDataModule,
        net: nn.Module,
        input_spec: InputSpec,
        *,
        device: torch.device,
        context: Context,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.data = data
        self.input_spec = input_spec
        self.device = device
        self.context = context
        self.threads = threads
        self.network = feature_network(net).to(device)
        self._runtime: BackboneRuntime | None = None

    def extract(self, view: FeatureView, files: FeatureFiles, description: dict[str, Any]) -> None:
        """Stores the features of `view`; if some images were unreachable they are kept in memory only.

        Raises:
            UserError: Too many images are unreadable, or the disk is full.
        """
        num_images = len(self.data.splits[view.split])
        problems: dict[str, str] = {}
        log.info("computing the features of %d images: %s", num_images, view.name)
        loader = self.data.loader(
            view.split, augment=view.epoch is not None, view=view.epoch or 0, input_spec=self.input_spec
        )
        shape = (num_images, self._num_features(loader))
        with files.writing(view.name, shape, {**description, "problems": problems}) as values:
            missing = set(range(num_images))
            for batch in loader:
                rows = batch.indices.numpy()
                images = self.data.normalise(batch.images.to(self.device), self.input_spec)
                if self._runtime is None:
                    self._runtime = create_runtime(self.network, images[:_SAMPLE], self.context, self.threads)
                sides = [images.flip(-1) if flip else images for flip in view.flips]
                features = torch.stack([self._runtime(side).float() for side in sides]).mean(dim=0)
                values[rows] = features.cpu().numpy()
                missing.difference_update(rows.tolist())
            keys = self.data.keys(view.split)
            problems |= {str(row): self.data.bad_images[keys[row]] for row in sorted(missing)}
            if loader.num_unreachable:
                log.warning("features of %s are not cached: some images were unreachable", view.name)
                files.keep_in_memory(view.name, values, problems)
        loader.close()

    def _num_features(self, loader: ImageLoader) -> int:
        size = loader.stream.size
        with torch.inference_mode():
            return int(self.network(torch.zeros(1, 3, *size, device=self.device)).shape[1])
