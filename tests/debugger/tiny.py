"""A training small enough for a test: 16 x 16 images of coloured stripes, a network of three convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dogbreed.debugger.callbacks import debugger_callbacks
from dogbreed.input_spec import InputSpec

MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    indices: Tensor


def striped(labels: Tensor, seed: int, noise: float = 0.15) -> Tensor:
    """Returns (N, 3, 16, 16) images in 0..1; each class has a colour and a direction of stripes."""
    random = torch.Generator().manual_seed(seed)
    count = len(labels)
    phase = torch.rand(count, 1, 1, generator=random) * 6.28
    x = torch.arange(16.0).view(1, 1, 16).expand(count, 16, 16)
    y = torch.arange(16.0).view(1, 16, 1).expand(count, 16, 16)
    along = torch.where((labels % 2 == 0).view(-1, 1, 1), x, y)
    waves = 0.5 + 0.45 * torch.sin(along * (0.6 + 0.5 * (labels // 2).view(-1, 1, 1)) + phase)
    colours = 0.55 + 0.45 * torch.stack([torch.cos(labels + 2.1 * i) for i in range(3)], dim=1)
    images = waves[:, None] * colours[:, :, None, None]
    images = images + noise * torch.randn(count, 3, 16, 16, generator=random)
    return (images + 0.12).clamp(0, 1)


class TinyData(pl.LightningDataModule):
    """The interface of `ImageDataModule` that the debugger uses.

    Args:
        counts: Training images of each class.
        normalise: Whether images are normalised as the network expects.
        shuffled: Whether training labels are random.
    """

    def __init__(
        self, counts: tuple[int, ...] = (150, 150, 150, 150), batch_size: int = 32, normalise: bool = True,
        shuffled: bool = False, val: int | tuple[int, ...] = 60, noise: float = 0.15,
    ) -> None:  # fmt: skip
        super().__init__()
        self.batch_size, self.normalise, self.url = batch_size, normalise, "tiny"
        self.num_workers = 0
        self.classes = [f"{i:03}.breed_{i}" for i in range(len(counts))]
        self.class_counts = {"train": list(counts)}
        self.bad_images: dict[str, str] = {}
        self._splits = {}
        held = val if isinstance(val, tuple) else (val,) * len(counts)
        for seed, (split, each) in enumerate({"train": counts, "val": held, "test": held}.items()):
            labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(each))
            images = striped(labels, seed, noise)
            if shuffled:
                labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]
            self._splits[split] = (images, labels)

    def keys(self, split: str) -> list[str]:
        return [f"{split}/{self.classes[label]}/{i}.jpg" for i, label in enumerate(self._splits[split][1].tolist())]

    def loader(self, split: str, *, shuffle: bool = False, **_: Any) -> Any:
        images, labels = self._splits[split]
        if self.normalise:
            images = (images - 0.5) / 0.25
        data = TensorDataset(images, labels, torch.arange(len(labels)))
        return DataLoader(
            data,
            self.batch_size,
            shuffle=shuffle,
            collate_fn=lambda rows: Batch(*map(torch.stack, zip(*rows, strict=True))),
        )

    def train_dataloader(self) -> Any:
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> Any:
        return self.loader("val")

    def test_dataloader(self) -> Any:
        return self.loader("test")


def network(classes: int = 4, width: int = 12) -> nn.Sequential:
    """Returns three convolutions with batch norm and ReLU; each convolution has a bias."""
    layers: list[nn.Module] = []
    for number, stride in enumerate((1, 2, 2)):
        layers += [nn.Conv2d(width if number else 3, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class TinyModel(pl.LightningModule):
    """A classifier around any `net`, with a functional loss."""

    def __init__(self, net: nn.Module | None = None, lr: float = 3e-3, optimizer: str = "AdamW", **more: Any) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net = network() if net is None else net
        self.input_spec = InputSpec(mean=MEAN, std=STD)
        self.losses: list[float] = []

    def _loss(self, batch: Any, stage: str) -> Tensor:
        logits = self.net(batch[0])
        loss = functional.cross_entropy(logits, batch[1])
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True)
        if stage != "train":
            self.log(f"{stage}/accuracy", (logits.argmax(1) == batch[1]).float().mean(), on_epoch=True)
        return loss

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss = self._loss(batch, "train")
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self._loss(batch, "val")

    def test_step(self, batch: Any, _: int) -> None:
        self._loss(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        if self.hparams["optimizer"] == "SGD":
            return torch.optim.SGD(parameters, lr=self.hparams["lr"], momentum=0.9)
        return torch.optim.AdamW(parameters, lr=self.hparams["lr"], weight_decay=self.hparams.get("weight_decay", 0.01))


CONFIG = {part: {"enabled": True} for part in ("tensors", "predictions", "profiler", "images")}


def train(
    folder: Path,
    model: TinyModel,
    data: TinyData,
    epochs: int = 3,
    config: dict | None = None,
    test: bool = True,
    **settings: Any,
) -> pl.Trainer:
    """Fits and tests with the debugger's callbacks (none for a config of {}); resumes from a `ckpt_path`."""
    ckpt_path = settings.pop("ckpt_path", None)
    callbacks = debugger_callbacks(CONFIG if config is None else config, folder)
    settings = {
        "accelerator": "cpu",
        "max_epochs": epochs,
        "callbacks": [*callbacks, *settings.pop("callbacks", [])],
        **settings,
    }
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(**quiet, **settings)
    trainer.fit(model, data, ckpt_path=ckpt_path)
    if test:
        trainer.test(model, data, verbose=False)
    return trainer
