"""Averaged weights: validation, saving, serving and resuming."""

import pytest
import pytorch_lightning as pl
import safetensors.torch
import torch

from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.callbacks.weight_averaging import AveragedWeights
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.run.train import train

TINY = [
    "model=timm", "model.name=test_resnet", "data.url='demo://?classes=3&train=12&valid=4&test=4&size=32'",
    "batch_size=4", "trainer=cpu", "debugger=off", "scheduler=none", "lr=0.01",
]  # fmt: skip


def run(folder, *overrides):
    return train(resolve_defaults(compose("train", [*TINY, f"output_dir={folder}", *overrides])))


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """Folder and results of a training without averaging."""
    folder = tmp_path_factory.mktemp("without")
    return folder, run(folder, "epochs=2")


def test_swa_without_a_bounded_number_of_steps_is_an_error():
    data = ImageDataModule("demo://?classes=3&train=4&valid=0&test=0&size=32")
    model = ImageClassifier("test_resnet", data.classes, weights="random")
    data.input_spec = model.input_spec
    trainer = pl.Trainer(max_epochs=-1, callbacks=[AveragedWeights("swa")], accelerator="cpu", logger=False)
    with pytest.raises(UserError, match=r"averaging=swa .* needs max_epochs or max_steps"):
        trainer.fit(model, data)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_average_is_validated_saved_tested_and_served(tmp_path, kind, without):
    averaged = run(tmp_path / "a", "epochs=2", f"averaging={kind}")
    last, best = weights(tmp_path / "a"), weights(tmp_path / "a", "best")
    # Averaging does not change the training itself.
    folder, plain = without
    assert same(last["current_model_state"], weights(folder)["state_dict"])
    assert {epoch: metrics["train/loss"] for epoch, metrics in averaged["epochs"].items()} == {
        epoch: metrics["train/loss"] for epoch, metrics in plain["epochs"].items()
    }
    assert averaged["epochs"][1]["val/loss"] != plain["epochs"][1]["val/loss"]
    if kind == "swa":  # begins in the second epoch
        assert averaged["epochs"][0] == plain["epochs"][0]
    if averaged["best_epoch"] == 1:
        assert same(best["state_dict"], last["state_dict"])
    served = safetensors.torch.load_file(tmp_path / "a" / "model" / "model.safetensors")
    assert same(served, {key.removeprefix("net."): value for key, value in best["state_dict"].items()})
    model = ImageClassifier.load_from_checkpoint(tmp_path / "a" / "checkpoints" / "best.ckpt")
    assert same(model.state_dict(), best["state_dict"])


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_update_computes_the_average_by_its_formula(kind):
    values = torch.arange(1.0, 9.0)
    averaging, model = AveragedWeights(kind, decay=0.5), torch.nn.Linear(1, 1, bias=False)
    averaging.reset(model)
    by_hand = None
    for count, value in enumerate(values):
        model.weight.data.fill_(value)
        averaging.update(model)
        decay = min(0.5, (1 + count) / (10 + count))
        by_hand = value if by_hand is None else decay * by_hand + (1 - decay) * value
    expected = values.mean() if kind == "swa" else by_hand
    assert averaging.average()["weight"].item() == pytest.approx(expected.item())
    with averaging.swapped_in(model):
        assert model.weight.item() == pytest.approx(expected.item())
    assert model.weight.item() == values[-1]


def test_swa_begins_in_the_last_quarter_of_the_steps():
    averaging = AveragedWeights("swa")
    counts = []

    class Count(pl.Callback):
        def on_train_batch_end(self, *_):
            counts.append(averaging.num_updates)

    fit(averaging, Count())
    assert counts == [0, 0, 0, 0, 0, 0, 1, 2]


def fit(averaging, *callbacks):
    """Fits a new model for 8 steps with a new trainer."""
    pl.seed_everything(0, verbose=False)
    data = ImageDataModule("demo://?classes=2&train=16&valid=2&test=2&size=32", batch_size=4, augment=False)
    model = ImageClassifier("test_resnet", data.classes, weights="random", finetune="full", lr=0.01)
    data.input_spec = model.input_spec
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[averaging, *callbacks], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return model


def test_second_fit_averages_again():
    averaging = AveragedWeights("ema")
    first, second = fit(averaging), fit(averaging)
    assert same(first.state_dict(), second.state_dict())
    plain = fit(pl.Callback())
    assert not same(first.state_dict(), plain.state_dict())


EVERYTHING = [
    "averaging=ema", "finetune=gradual", "unfreeze_every=1", "layer_decay=0.8", "backbone_lr_factor=1",
    "mixup=0.4", "cutmix=1.0", "tta=true", "label_smoothing=0.1",
]  # fmt: skip


def test_resume_restores_both_weights(tmp_path):
    straight = run(tmp_path / "straight", "epochs=4", *EVERYTHING)
    run(tmp_path / "begun", "epochs=2", *EVERYTHING)
    resumed = run(tmp_path / "resumed", "epochs=4", *EVERYTHING, f"resume_from={tmp_path}/begun/checkpoints/last.ckpt")
    assert [resumed["epochs"][epoch] for epoch in (2, 3)] == [straight["epochs"][epoch] for epoch in (2, 3)]
    ends = [weights(tmp_path / name) for name in ("straight", "resumed")]
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert same(ends[0][key], ends[1][key])


def test_unknown_kind_is_a_user_error():
    with pytest.raises(UserError, match="averaging=emaa: not allowed; did you mean ema"):
        AveragedWeights("emaa")


def test_weights_only_model_checkpoint_is_refused(tmp_path):
    data = ImageDataModule("demo://?classes=3&train=4&valid=4&test=0&size=32")
    model = ImageClassifier("test_resnet", data.classes, weights="random")
    data.input_spec = model.input_spec
    keep = pl.callbacks.ModelCheckpoint(tmp_path, save_weights_only=True)
    trainer = pl.Trainer(max_epochs=1, callbacks=[AveragedWeights(), keep], accelerator="cpu", logger=False)
    with pytest.raises(UserError, match=r"use .*BestCheckpoint\(averaging="):
        trainer.fit(model, data)


def test_full_model_checkpoint_has_the_validated_average(tmp_path):
    data = ImageDataModule("demo://?classes=3&train=8&valid=4&test=0&size=32", batch_size=4)
    model = ImageClassifier("test_resnet", data.classes, weights="random", finetune="full", lr=0.01)
    data.input_spec = model.input_spec
    keep = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/loss")
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=1, callbacks=[AveragedWeights(), keep], **settings)
    trainer.fit(model, data)
    loaded = ImageClassifier.load_from_checkpoint(keep.best_model_path)
    [scores] = pl.Trainer(**settings).validate(loaded, data, verbose=False)
    assert scores["val/loss"] == pytest.approx(float(keep.best_model_score), rel=1e-4)
