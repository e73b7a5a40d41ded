"""FeatureCache: looks up the features of a model's frozen backbone for a data set, or computes them."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.data.settings import FeatureSettings
from dogbreed.errors import UserError
from dogbreed.features.extract import FeatureExtractor, FeatureView
from dogbreed.features.runtime import Context, thread_per_core
from dogbreed.features.shared_store import SharedFeatures
from dogbreed.features.store import FeatureFiles, Features
from dogbreed.input_spec import InputSpec
from dogbreed.models.classifier import ImageClassifier
from dogbreed.models.freezing import FROZEN
from dogbreed.models.heads import has_linear_head, head_names
from dogbreed.models.inputs import check_size

log = logging.getLogger(__name__)

_FORMAT = 4
"""Part of the key: raising it invalidates all older files."""

_AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Data type of autocast for each supported `Trainer(precision=)`."""


class NotCacheableError(UserError):
    """The features of this model and data set cannot be cached without changing the training."""


class FeatureCache:
    """Features of frozen backbones, stored under a hash of everything they depend on.

    The key covers images, splits, architecture, backbone weights, input format, precision, device type and library
    versions. Several trainings may use one cache at the same time: the first one computes, the others wait. Training on
    cached features gives the batches, order, head dropout and metrics of a training on images, up to rounding.

    Args:
        folder: Folder of the feature files.
        views: Number of random crops of each training image to cache, used in turn epoch by epoch: with at least as
            many as there are epochs, training equals one without cache. 0: the images as in evaluation.
        max_gb: Size limit of the folder, GB; least recently used features are deleted beyond it.
        url: `s3://bucket/prefix` that jobs on several machines share.
        endpoint_url: Server of an S3-compatible store.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        views: int = FeatureSettings.views,
        max_gb: float = FeatureSettings.max_gb,
        url: str | None = FeatureSettings.url,
        endpoint_url: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.views = views
        self.max_gb = max_gb
        self.url = url
        self.endpoint_url = endpoint_url

    def load(
        self,
        model: ImageClassifier,
        data: ImageDataModule,
        *,
        device: torch.device | str = "cpu",
        precision: str = "32-true",
    ) -> dict[str, list[Features]]:
        """Returns the features of each split that the model needs: one entry per view, computed if they are missing.

        If the backbone is trained later (`head_start` with `finetune=full` or `gradual`) they are only those of train.

        Args:
            model: A classifier with its current weights; its `input_spec` is the format of the images.
            data: The images, in the size of `image_size` if that is set.
            device: Device to compute on.
            precision: Precision of the training, as in `Trainer(precision=)`.

        Raises:
            NotCacheableError: Features would change the training, or the head is not linear.
            UserError: Too many images are unreadable, or the folder or bucket is not writable.
        """
        started = time.monotonic()
        if reason := self._reason_against(model.hparams, data, precision):
            raise NotCacheableError(reason)
        views = self._views(model.hparams, data)
        cached = self._load_views(views, model, data, torch.device(device), precision)
        log.info(
            "features of %d images in %.1f s, cached in %s; features=off trains without them",
            sum(len(features.values) for features in cached.values()), time.monotonic() - started, self.folder,
        )  # fmt: skip
        splits: dict[str, list[Features]] = {}
        for view in views:
            splits.setdefault(view.split, []).append(cached[view.name])
        return splits

    def _reason_against(self, hparams: Any, data: ImageDataModule, precision: str) -> str:
        """Returns why features would change the training, empty if they do not."""
        frozen = hparams["finetune"] in FROZEN
        reasons = {
            f"finetune={hparams['finetune']} trains it": not frozen and (self.views or not hparams["head_start"]),
            "mixup and cutmix mix images, not features": frozen and (hparams["mixup"] or hparams["cutmix"]),
            "data.randaugment_on=device changes images in each epoch": (
                frozen and data.randaugment and data.randaugment_on == "device"
            ),
            "data.augment=false has one view of each image": self.views and not data.augment,
            "data.augment=true shows other crops in each epoch; set data.augment=false or features.views=4": (
                frozen and data.augment and not self.views
            ),
            f"trainer.precision={precision} is not one of {', '.join(_AUTOCAST)}": precision not in _AUTOCAST,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _views(self, hparams: Any, data: ImageDataModule) -> list[FeatureView]:
        """Returns the views to cache, those of train first."""
        solves = hparams["finetune"] == "linear_probe" or bool(hparams["head_start"])
        crops = f"{data.seed}-{data.crop_area:g}-{data.randaugment}"
        views = [FeatureView(f"train-{crops}-{epoch}", "train", epoch) for epoch in range(self.views)]
        views = views or [FeatureView("train", "train")]
        if hparams["tta"] and solves and not self.views:  # TTA evaluates both sides, so the solver sees both
            views.append(FeatureView("train-mirrored", "train", flips=(True,)))
        if hparams["finetune"] not in FROZEN:
            return views
        others = [split for split in data.splits if split != "train" and len(data.splits[split])]
        if hparams["tta"]:
            return [*views, *(FeatureView(f"{split}-both-sides", split, flips=(False, True)) for split in others)]
        return [*views, *(FeatureView(split, split) for split in others)]

    def _load_views(
        self, views: list[FeatureView], model: ImageClassifier, data: ImageDataModule, device: torch.device,
        precision: str,
    ) -> dict[str, Features]:  # fmt: skip
        """Returns the features by name of their view: from the folder, else from S3, else computed."""
        description = _describe(model, data, device, precision)
        key = hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=12).hexdigest()
        files = FeatureFiles(self.folder, key, self.max_gb)
        found = {view.name: features for view in views if (features := files.open(view.name))}
        if len(found) == len(views):
            return found
        spec = _input_spec(model, data)
        if not has_linear_head(model.net, spec.height, spec.width):
            raise NotCacheableError(
                f"the head of {model.hparams['model']} is more than one linear layer; type optimizer=adamw"
            )
        with files.locked(), thread_per_core() as threads:
            shared = SharedFeatures(self.url, key, self.endpoint_url) if self.url else None
            extractor = FeatureExtractor(
                data, model.net, spec, device=device, context=_context(device, precision), threads=threads
            )
            for view in views:
                if files.open(view.name) or (shared and shared.fetch_or_claim(view.name, files.path)):
                    continue
                with shared.computing(view.name, files.path) if shared else nullcontext():
                    extractor.extract(view, files, description)
            return {view.name: _opened(files, view.name) for view in views}


def _context(device: torch.device, precision: str) -> Context:
    dtype = _AUTOCAST[precision]
    return partial(torch.autocast, device.type, dtype) if dtype else nullcontext


def _input_spec(model: ImageClassifier, data: ImageDataModule) -> InputSpec:
    spec = model.input_spec.resized(data.image_size)
    check_size(model.net, model.input_spec, spec.height, spec.width)
    return spec


def _opened(files: FeatureFiles, name: str) -> Features:
    features = files.open(name)
    if features is None:
        raise UserError(f"features.folder={files.folder}: {name} was deleted while it was computed; start again")
    return features


def _describe(model: ImageClassifier, data: ImageDataModule, device: torch.device, precision: str) -> dict[str, Any]:
    """Returns everything that the features depend on; the key is its hash."""
    return {
        "format": _FORMAT,
        "images": data.fingerprint,
        "splits": [data.val_fraction, data.test_fraction, data.split_seed],
        "model": model.hparams["model"],
        "kwargs": dict(model.hparams["model_kwargs"]),
        "weights": _fingerprint(model.net),
        "transform": repr(_input_spec(model, data)),
        "scaled": bool(data.cache and data.cache.variant),
        "precision": precision,
        "device": device.type,
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm")},
    }


def _fingerprint(net: nn.Module) -> str:
    """Returns a hash of the weights and running statistics of the backbone."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in _backbone_state(net):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _backbone_state(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    heads = tuple(f"{name}." for name in head_names(net))
    yield from ((name, value) for name, value in net.state_dict().items() if not name.startswith(heads))
