"""FeatureCache: decides whether a training may run on kept features, makes or finds them, and hands them over."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.errors import UserError
from dogbreed.features.extract import Computer, Part
from dogbreed.features.runtime import all_processors
from dogbreed.features.shared_store import SharedFeatures
from dogbreed.features.store import FeatureFiles, Features
from dogbreed.models import backbones as backbone
from dogbreed.models.linear_probe import solve_head

log = logging.getLogger(__name__)

_FORMAT = 2
"""Of the files, and of what is done to images beyond what the key tells: one more makes all older ones void."""

_SMALL = 20_000_000
"""Multiplications of a step for which torch's threads take longer to wake up than to compute: with 2 of them 2,400
steps of a head of 100 classes on 20 images took 8.4 s, alone 6.9 s."""

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class FeatureCache(pl.Callback):
    """Lets a training with a frozen backbone run on features that were computed once.

    The trainings of a sweep then share one pass over the images: the first one makes it, the others wait or read.
    Batches, their order, the head's dropout and everything that is recorded stay the same; only rounding differs
    where the backbone runs faster in another form. Where keeping features would change the training (layers that
    are not frozen, images that are augmented anew in each epoch), nothing is done, and the log says why.

    Args:
        folder: Where features lie.
        views: Random crops of each training image that are kept, epoch by epoch: with as many as there are epochs
            the training is the same as without. 0: none.
        max_gb: What the folder may hold; what was not used for longest is deleted.
        url: `s3://bucket/prefix` that jobs on several machines share.
        endpoint_url: Server of an S3-compatible store.

    Raises:
        UserError: when the training begins: views are asked for where they make no sense, or nothing can be written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        views: int = 0,
        max_gb: float = 20.0,
        url: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.views = views
        self.max_gb = max_gb
        self.url = url
        self.endpoint_url = endpoint_url
        self._whose: tuple[Any, ...] = ()
        self._features: dict[str, list[Features]] = {}
        self._loading: RemovableHandle | None = None
        self._threads = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Makes or finds the features of all splits, and lets data and network use them until `teardown`."""
        data = getattr(trainer, "datamodule", None)
        whose = weakref.ref(pl_module), data if data is None else weakref.ref(data)
        if whose != self._whose:
            self._features = self._make(trainer, pl_module, data)
            self._whose = whose
        if self._features and isinstance(data, ImageDataModule):
            data.features = self._features
            net = pl_module.get_submodule("net")
            self._loading = net.register_load_state_dict_pre_hook(partial(self._compare, data))
            width = self._features["train"][0].values.shape[1]
            if data.batch_size * width * len(data.classes) < _SMALL:
                self._threads = torch.get_num_threads()
                torch.set_num_threads(1)

    def _make(self, trainer: pl.Trainer, model: pl.LightningModule, data: Any) -> dict[str, list[Features]]:
        """Returns the features that `model` is to run on, by split; {} where it runs on images."""
        began = time.monotonic()
        hparams = model.hparams
        reason = self._reason_against(trainer, data, hparams)
        found: dict[str, Features] = {}
        if not reason and isinstance(data, ImageDataModule):
            found = self._find(trainer, data, model.get_submodule("net"), hparams)
        if not found or not isinstance(data, ImageDataModule):
            reason = reason or f"the head of {hparams['model']} is more than one linear layer"
            asked = f"features.views={self.views}" if self.views else f"head_start={hparams.get('head_start')}"
            if self.views or _solves(hparams):
                raise UserError(f"{asked} cannot be had: {reason}")
            log.info("the backbone runs in every epoch: %s", reason)
            return {}
        log.info(
            "features of %d images in %.1f s, kept in %s; features=off trains without",
            sum(len(part.values) for part in found.values()), time.monotonic() - began, self.folder,
        )  # fmt: skip
        return self._hand_over(data, model, found)

    def _hand_over(
        self, data: ImageDataModule, model: pl.LightningModule, found: dict[str, Features]
    ) -> dict[str, list[Features]]:
        """Solves the head where that is asked for; returns the features that a training of the head alone runs on."""
        features: dict[str, list[Features]] = {split: [] for split in data.splits}
        for part in self._parts(data, model.hparams):
            features[part.split].append(found[part.name])
        if _solves(model.hparams):
            solve_head(model, features["train"], data.splits["train"].labels)
        if model.hparams["finetune"] != "head":
            return {}
        backbone.accept_features(model.get_submodule("net"))
        return features

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the features from the data, which other models may be given, and gives torch its threads back."""
        if isinstance(data := getattr(trainer, "datamodule", None), ImageDataModule):
            data.features = {}
        if self._loading:
            self._loading.remove()  # a copy of the network would have it too
        if self._threads:
            torch.set_num_threads(self._threads)
            self._threads = 0

    def _compare(self, data: ImageDataModule, net: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        """Goes back to images where a checkpoint brings another backbone: Lightning loads it after `setup`."""
        if any(not torch.equal(value, state.get(prefix + name, value).to(value)) for name, value in _frozen(net)):
            log.info("the backbone runs in every epoch: the checkpoint has another one than features were made with")
            data.features, self._whose = {}, ()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Does so where Lightning does not come to `teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def _reason_against(self, trainer: pl.Trainer, data: Any, hparams: Any) -> str:
        """Returns why features may not be kept, empty where they may."""
        if not isinstance(data, ImageDataModule):
            return "its images do not come from an ImageDataModule"
        alone = hparams.get("finetune") == "head"
        reasons = {
            f"finetune={hparams.get('finetune')} trains it": not alone and (self.views or not _solves(hparams)),
            "mixup and cutmix mix images, not features": alone and (hparams.get("mixup") or hparams.get("cutmix")),
            "data.randaugment_on=device changes images anew": (
                alone and data.randaugment and data.randaugment_on == "device"
            ),
            "data.augment=false leaves one view of each image": self.views and not data.augment,
            "data.augment=true shows other crops each time; data.augment=false or features.views=4 would not": (
                alone and data.augment and not self.views
            ),
            f"trainer.precision={trainer.precision} is none of {', '.join(_PRECISIONS)}": (
                trainer.precision not in _PRECISIONS
            ),
            "this is a trial of one batch": trainer.fast_dev_run,  # type: ignore[attr-defined]
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _parts(self, data: ImageDataModule, hparams: Any) -> list[Part]:
        tta, solves = bool(hparams.get("tta")), _solves(hparams)
        crops = f"{data.seed}-{data.crop_area:g}-{data.randaugment}"
        views = [Part(f"train-{crops}-{view}", "train", view) for view in range(self.views)]
        train = views or [Part("train", "train", None)]
        if tta and solves and not views:  # the head is asked about both sides, so it learns from both
            train.append(Part("train-mirrored", "train", None, (True,)))
        if hparams["finetune"] != "head":
            return train
        others = [split for split in data.splits if split != "train" and len(data.splits[split])]
        if tta:
            return [*train, *(Part(f"{split}-both-sides", split, None, (False, True)) for split in others)]
        return [*train, *(Part(split, split, None) for split in others)]

    def _find(self, trainer: pl.Trainer, data: ImageDataModule, net: nn.Module, hparams: Any) -> dict[str, Features]:
        """Returns the features by part: as they lie there, else waited for, else computed; {} if there can be none."""
        about = _describe(trainer, data, net, hparams)
        key = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=12).hexdigest()
        files = FeatureFiles(self.folder, key, self.max_gb)
        parts = self._parts(data, hparams)
        found = {part.name: files.open(part.name) for part in parts}
        if all(found.values()):
            return found  # type: ignore[return-value]
        if not backbone.has_linear_head(net, data.input_spec.height, data.input_spec.width):
            return {}
        with files.locked(), all_processors() as threads:
            shared = SharedFeatures(self.url, key, self.endpoint_url) if self.url else None
            computer: Computer | None = None
            for part in parts:
                if files.open(part.name) or (shared and shared.fetch_or_claim(part.name, files.place)):
                    continue
                computer = computer or Computer(trainer, data, net, _missing(files, data, parts), threads)
                if shared:
                    with shared.computing(part.name, files.place):
                        computer.compute(part, files, about)
                else:
                    computer.compute(part, files, about)
            return {part.name: _opened(files, part.name) for part in parts}


def _solves(hparams: Any) -> bool:
    return bool(hparams.get("head_start"))


def _missing(files: FeatureFiles, data: ImageDataModule, parts: list[Part]) -> int:
    return sum(len(data.splits[part.split]) for part in parts if files.open(part.name) is None)


def _opened(files: FeatureFiles, name: str) -> Features:
    features = files.open(name)
    if features is None:
        raise UserError(f"features.folder={files.folder}: {name} was deleted while it was made; start again")
    return features


def _describe(trainer: pl.Trainer, data: ImageDataModule, net: nn.Module, hparams: Any) -> dict[str, Any]:
    """Returns all that the features depend on; another value of any of it is another key."""
    return {
        "format": _FORMAT,
        "images": data.fingerprint,
        "splits": [data.valid_fraction, data.test_fraction, data.split_seed],
        "model": hparams["model"],
        "kwargs": dict(hparams["model_kwargs"]),
        "weights": _fingerprint(net),
        "transform": repr(data.input_spec),
        "scaled": bool(data.cache and data.cache.scaled),
        "precision": str(trainer.precision),
        "device": trainer.strategy.root_device.type,
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm")},
    }


def _fingerprint(net: nn.Module) -> str:
    """Returns a hash of the backbone's weights."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in _frozen(net):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _frozen(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields name and value of the backbone's parameters and running statistics."""
    heads = tuple(f"{name}." for name in backbone.head_names(net))
    yield from ((name, value) for name, value in net.state_dict().items() if not name.startswith(heads))
