import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from dogbreed import ImageDataModule
from dogbreed.data.loader import Batch
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec

Folder = Callable[[Path, Mapping[str, int]], Path]
CONFIG = {"input_size": (3, 16, 16), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.1, 0.3), "crop_pct": 1.0}
SPEC = InputSpec.from_data_config(CONFIG)
SMALL = "demo://?classes=3&train=6&valid=2&test=2&size=16"


def module(url: str = SMALL, **options: Any) -> ImageDataModule:
    return ImageDataModule(url, **{"batch_size": 4, "input_spec": SPEC, **options})


class Recorder(pl.LightningModule):
    """A model that records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 3)
        self.seen: dict[int, list[tuple[list[int], float]]] = {}

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        row = (batch.indices.tolist(), float(batch.images.double().sum()))
        self.seen.setdefault(self.current_epoch, []).append(row)
        return nn.functional.cross_entropy(self.layer(batch.images.flatten(1)), batch.labels)

    def validation_step(self, batch: Batch, _: int) -> None:
        assert batch.images.dtype == torch.float32

    def test_step(self, batch: Batch, _: int) -> None:
        self.seen.setdefault(-1, []).append((batch.indices.tolist(), 0.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(tmp_path: Path, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    return pl.Trainer(callbacks=[checkpoint], **{"max_epochs": 3, **quiet, **options})


def test_listing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="dogbreed"):
        data = module("demo://?classes=3&train=20&valid=0&test=4&size=16")
        assert not caplog.messages
        data.setup("fit")
        assert data.num_classes == 3
        data.setup("test")
    assert [message for message in caplog.messages if "classes" in message] == [
        "demo://?classes=3&train=20&valid=0&test=4&size=16: 3 classes; images: 54 train, 6 val, 12 test"
    ]
    assert sum("no val split: made from train" in message for message in caplog.messages) == 1


def test_counts_keys_and_classes() -> None:
    data = module()
    assert data.classes == sorted(data.classes)
    assert data.class_counts == {"train": [6] * 3, "val": [2] * 3, "test": [2] * 3}
    assert [key.split("/")[1] for key in data.keys("test")[:3]] == [data.classes[0], data.classes[0], data.classes[1]]
    batch = next(iter(data.test_dataloader()))
    for label, index in zip(batch.labels, batch.indices, strict=True):
        assert data.keys("test")[index].split("/")[1] == data.classes[label]
    with pytest.raises(UserError, match="no split 'vlal'; did you mean val"):
        data.keys("vlal")


def test_batch_is_normalised_by_the_data_config() -> None:
    data = module(augment=False)
    batch = next(iter(data.val_dataloader()))
    out = data.on_after_batch_transfer(batch, 0)
    assert out.images.dtype == torch.float32
    mean, std = (torch.tensor(CONFIG[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(out.images, (batch.images / 255 - mean) / std)
    again = data.on_after_batch_transfer(out, 0)
    assert again.images is out.images


def test_batch_moves_to_its_device_and_is_not_copied_on_cpu() -> None:
    data = module(augment=False)
    batch = next(iter(data.val_dataloader()))
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {part.device.type for part in moved} == {"meta"}


def test_single_images_are_small_evaluation_images() -> None:
    data = module(f"{SMALL[:-2]}64", augment=False, image_size=32, batch_size=8)
    found = data.images("test", [5, 2], 16)
    assert (tuple(found.images.shape), found.indices.tolist()) == ((2, 3, 16, 16), [5, 2])
    evaluated = next(iter(data.test_dataloader()))
    assert found.labels.tolist() == evaluated.labels[[5, 2]].tolist()
    whole = evaluated.images[[5, 2]].float()
    small = torch.nn.functional.interpolate(whole, size=(16, 16), mode="area")
    assert (found.images - small).abs().mean() < 12


def test_input_spec_is_required_and_image_size_overrides_it(tmp_path: Path, write_images: Folder) -> None:
    folder = ImageDataModule(str(write_images(tmp_path, {"a": 3, "b": 3})))
    with pytest.raises(UserError, match=r"set data.input_spec = model.input_spec"):
        folder.loader("train")
    folder.input_spec = SPEC
    assert folder.input_spec == SPEC
    assert ImageDataModule("demo://?size=40", input_spec=SPEC).input_spec == replace(SPEC, height=40, width=40)
    assert next(iter(module(image_size=24).train_dataloader())).images.shape[-2:] == (24, 24)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epoch_order_changes_with_persistent_workers(tmp_path: Path, num_workers: int) -> None:
    model = Recorder()
    data = module(num_workers=num_workers, seed=7)
    trainer(tmp_path).fit(model, data)
    order = data.train_dataloader().stream.sampler
    assert sorted(model.seen) == [0, 1, 2]
    for epoch, rows in model.seen.items():
        assert [indices for indices, _ in rows] == [batch.tolist() for batch in order.batches(epoch)]
    assert len({rows[0][1] for rows in model.seen.values()}) == 3


def test_workers_do_not_change_a_training(tmp_path: Path) -> None:
    runs = []
    for num_workers in (0, 1, 2):
        torch.manual_seed(0)
        model = Recorder()
        trainer(tmp_path, max_epochs=2).fit(model, module(num_workers=num_workers))
        runs.append((model.seen, model.layer.weight.detach().clone()))
    for seen, weight in runs[1:]:
        assert seen == runs[0][0]
        assert torch.equal(weight, runs[0][1])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_training_continues_with_the_right_epoch(tmp_path: Path, num_workers: int) -> None:
    whole = Recorder()
    trainer(tmp_path / "whole").fit(whole, module(num_workers=0))
    first, second = Recorder(), Recorder()
    trainer(tmp_path / "cut", max_epochs=1).fit(first, module(num_workers=num_workers))
    trainer(tmp_path / "cut").fit(second, module(num_workers=num_workers), ckpt_path=tmp_path / "cut/last.ckpt")
    assert {**first.seen, **second.seen} == whole.seen


def test_overfit_batches_repeats_the_same_crops(tmp_path: Path) -> None:
    model = Recorder()
    trainer(tmp_path, overfit_batches=1).fit(model, module())
    assert len(model.seen) == 3 and model.seen[0] == model.seen[1] == model.seen[2]


def test_test_split_yields_every_image_once_in_order(tmp_path: Path) -> None:
    model = Recorder()
    trainer(tmp_path).test(model, module(num_workers=2), verbose=False)
    assert [index for indices, _ in model.seen[-1] for index in indices] == list(range(6))


def test_no_worker_outlives_the_training(tmp_path: Path) -> None:
    import multiprocessing

    trainer(tmp_path, max_epochs=1).fit(Recorder(), module(num_workers=2))
    assert not multiprocessing.active_children()


def test_train_split_for_evaluation_is_in_listing_order() -> None:
    data = module()
    loader = data.loader("train")
    first, second = (torch.cat([batch.images for batch in loader]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.cat([batch.indices for batch in loader]).tolist() == list(range(18))


def test_seed_changes_order_but_not_splits(tmp_path: Path, write_images: Folder) -> None:
    root = write_images(tmp_path, {"a": 30, "b": 30})
    one, other = module(str(root), seed=0), module(str(root), seed=1)
    assert one.keys("test") == other.keys("test")
    assert one.keys("test") != module(str(root), split_seed=1).keys("test")
    indices = [next(iter(data.train_dataloader())).indices.tolist() for data in (one, other, module(str(root), seed=0))]
    assert indices[0] == indices[2] != indices[1]


def test_number_of_workers_follows_the_size_of_the_data(tmp_path: Path, write_images: Folder) -> None:
    assert module("demo://?train=2000&size=16").num_workers == 0
    assert module(str(write_images(tmp_path, {"a": 20}))).num_workers == 0
    for number in range(1100):
        (tmp_path / "a" / f"more{number}.jpg").touch()
    assert 1 <= module(str(tmp_path)).num_workers <= 4
    assert module(str(tmp_path), num_workers=7).num_workers == 7


def test_split_without_images_has_no_loader(tmp_path: Path, write_images: Folder) -> None:
    data = module(str(write_images(tmp_path, {"a": 9})), test_fraction=0.0)
    assert data.test_dataloader() == []
    assert len(data.val_dataloader()) == 1


def spoil(root: Path) -> None:
    (root / "train/a/001.jpg").write_bytes((root / "train/a/001.jpg").read_bytes()[:300])
    (root / "train/b/002.jpg").write_text("not an image")
    (root / "train/b/003.jpg").write_bytes(b"")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_images_do_not_end_a_training(
    tmp_path: Path, write_images: Folder, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    root = write_images(tmp_path, {"train/a": 9, "train/b": 9, "valid/a": 2, "test/b": 2})
    spoil(root)
    data = module(str(root), num_workers=num_workers)
    model = Recorder()
    trainer(tmp_path).fit(model, data)
    assert sorted(data.bad_images) == ["train/a/001.jpg", "train/b/002.jpg", "train/b/003.jpg"]
    assert data.bad_images["train/b/003.jpg"] == "empty file"
    assert all(sum(len(indices) for indices, _ in rows) == 15 for rows in model.seen.values())
    warnings = [record.message for record in caplog.records if record.name.startswith("dogbreed.data")]
    assert sum("skipped train/b/003.jpg: empty file" in message for message in warnings) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_images_can_raise(tmp_path: Path, write_images: Folder, num_workers: int) -> None:
    root = write_images(tmp_path, {"train/a": 9, "train/b": 9})
    spoil(root)
    data = module(str(root), num_workers=num_workers, bad_images="raise", val_fraction=0)
    with pytest.raises(UserError, match=r"^train/[ab]/00[123].jpg: .*; data.bad_images=skip skips such images$"):
        list(data.train_dataloader())
    data.teardown("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0: must be a whole number of at least 1"),
        ({"num_workers": -1}, "data.num_workers=-1: must be a whole number from 0"),
        ({"image_size": 0}, "data.image_size=0: must be a whole number from 1"),
        ({"bad_images": "skpi"}, "data.bad_images=skpi: not allowed; did you mean skip?"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "their sum must be below 1"),
        ({"val_fraction": -0.1}, "data.val_fraction=-0.1: must be a number from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        module(**options)
    assert message in str(caught.value)


def test_fingerprint_depends_on_the_data() -> None:
    assert module().fingerprint == module().fingerprint != module(SMALL.replace("train=6", "train=7")).fingerprint


def test_generated_breeds_can_be_learned(tmp_path: Path) -> None:
    """A linear classifier on colours is well above chance and far from perfect."""
    data = module("demo://?classes=4&train=30&valid=15&test=1&size=16", batch_size=120, augment=False)
    train, val = (next(iter(data.loader(split))) for split in ("train", "val"))
    features = [np.asarray(batch.images, dtype=float).reshape(len(batch.labels), -1) for batch in (train, val)]
    targets = np.eye(4)[train.labels]
    kernel = features[0] @ features[0].T
    weights = features[0].T @ np.linalg.solve(kernel + kernel.trace() / 120 * np.eye(120), targets)
    accuracy = ((features[1] @ weights).argmax(1) == val.labels.numpy()).mean()
    assert 0.3 < accuracy < 0.95
