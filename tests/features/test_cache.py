"""Cached features give the same metrics as images, and never belong to another backbone or image."""

import copy
import errno
import io
import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.features import FeatureCache, FeatureDataModule, NotCacheableError, store
from dogbreed.features.extract import FeatureExtractor
from dogbreed.models.linear_probe import fit_linear_probe
from dogbreed.run.train import train
from dogbreed.storage import retry
from dogbreed.storage.base import TransientError
from dogbreed.storage.demo import DemoStore

DEMO = "demo://?classes=3&train=12&valid=6&test=6&size=32"
TINY = ["model=timm", "model.name=test_resnet", "batch_size=8", "trainer=cpu", "finetune=head", "epochs=2", "lr=0.05"]
HEAD = [*TINY, "data.augment=false"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that trains with a cache below tmp_path, and returns results and names of computed views."""
    monkeypatch.setenv("DOGBREED_FEATURES", str(tmp_path / "features"))
    computed = []
    extract = FeatureExtractor.extract

    def note(self, view, *rest):
        computed.append(view.name)
        extract(self, view, *rest)

    monkeypatch.setattr(FeatureExtractor, "extract", note)

    def run(*overrides, url=DEMO, base=HEAD):
        computed.clear()
        output = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        kind = "demo" if url.startswith("demo") else "folder"
        given = [*base, f"data={kind}", f"data.url='{url}'", f"output_dir={output}", *overrides]
        return train(resolve_defaults(compose("train", given))), list(computed)

    return run


def numbers(results):
    return results["epochs"], results["test"], results["classes"]


ALL = ["train", "val", "test"]


def test_cache_equals_images_and_is_computed_once(run, tmp_path, caplog):
    caplog.set_level("INFO")
    plain, computed = run("features=off")
    assert computed == []
    first, computed = run()
    assert computed == ALL
    second, computed = run()
    assert computed == []
    assert numbers(first) == numbers(second)
    for epoch, metrics in plain["epochs"].items():
        assert first["epochs"][epoch] == pytest.approx(metrics, rel=1e-5)
    assert first["test"] == pytest.approx(plain["test"], rel=1e-5)
    assert first["classes"] == plain["classes"]
    assert "features of 72 images" in caplog.text and "features=off" in caplog.text


def test_cached_run_saves_the_whole_network_and_report(run, tmp_path):
    results, _ = run("lr=1e-6")
    plain, _ = run("features=off", "lr=1e-6")
    model = ImageClassifier.load_from_checkpoint(results["checkpoint"]).eval()
    images = torch.randn(2, 3, 32, 32)
    same = ImageClassifier.load_from_checkpoint(plain["checkpoint"]).eval()
    with torch.no_grad():
        assert torch.allclose(model(images), same(images), rtol=1e-4, atol=1e-5)
    kept, without = (sorted((tmp_path / name / "debug" / "thumbs").glob("*.jpg")) for name in ("run0", "run1"))
    assert [path.name for path in kept] == [path.name for path in without] != []
    assert (tmp_path / "run0" / "report.html").stat().st_size > 10_000
    with (
        np.load(tmp_path / "run0/debug/predictions-test.npz") as mine,
        np.load(tmp_path / "run1/debug/predictions-test.npz") as theirs,
    ):
        assert np.array_equal(mine["indices"], theirs["indices"])
        assert mine["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-3)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_cache_keeps_head_dropout_and_tta(run, name):
    plain, _ = run("features=off", "+model.kwargs.drop_rate=0.3", "tta=true", f"model.name={name}")
    kept, computed = run("+model.kwargs.drop_rate=0.3", "tta=true", f"model.name={name}")
    assert computed == ["train", "val-both-sides", "test-both-sides"]
    assert kept["epochs"][1] == pytest.approx(plain["epochs"][1], rel=1e-5)
    assert kept["test"] == pytest.approx(plain["test"], rel=1e-5)


def test_cache_with_a_view_per_epoch_equals_augmented_images(run):
    plain, _ = run("features=off", "data.augment=true")
    kept, computed = run("features.views=2", "data.augment=true")
    assert computed == ["train-7-0.08-0-0", "train-7-0.08-0-1", "val", "test"]
    for epoch in (0, 1):
        assert kept["epochs"][epoch] == pytest.approx(plain["epochs"][epoch], rel=1e-5)
    _, computed = run("features.views=3", "data.augment=true")
    assert computed == ["train-7-0.08-0-2"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.augment=true"], "data.augment=true shows other crops in each epoch"),
        (["finetune=full"], "finetune=full trains it"),
        (["finetune=gradual"], "finetune=gradual trains it"),
        (["trainer.precision=64-true"], "trainer.precision=64-true"),
        (["mixup=0.2"], "mixup and cutmix mix images"),
    ],
)
def test_cache_that_would_change_the_training_is_not_used(run, tmp_path, caplog, overrides, reason):
    caplog.set_level("INFO")
    run(*overrides, "epochs=1", "debugger=off")
    assert f"the backbone runs in every epoch: {reason}" in caplog.text
    assert not (tmp_path / "features").exists()


def classifier(data, seed=1, **settings):
    pl.seed_everything(seed, verbose=False)
    model = ImageClassifier("test_resnet", data.classes, **{"weights": "random", "lr": 0.05, **settings})
    data.input_spec = model.input_spec
    return model


def images(url=DEMO):
    return ImageDataModule(url, augment=False)


def trainer(*callbacks):
    return pl.Trainer(
        accelerator="cpu", callbacks=list(callbacks), max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def cached(folder, model, data):
    return FeatureDataModule(data, FeatureCache(folder).load(model, data))


def stored(folder):
    return {path.relative_to(folder): np.load(path) for path in folder.glob("*/*.npy")}


OTHER = DEMO.replace("12", "9")


@pytest.mark.parametrize("compiled", [False, True])
def test_load_after_a_fit_computes_the_same_features(tmp_path, monkeypatch, compiled):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    first, second = images(), images(OTHER)
    model = classifier(first, compile=compiled)
    trainer().fit(model, cached(tmp_path / "used", model, first))
    classifier(second)
    FeatureCache(tmp_path / "used").load(model, second)
    FeatureCache(tmp_path / "new").load(classifier(second), second)
    used, new = stored(tmp_path / "used"), stored(tmp_path / "new")
    assert len(new) == 3 and new.keys() <= used.keys()
    assert all(np.array_equal(used[name], values) for name, values in new.items())


def test_model_trained_on_features_runs_on_images_unchanged(tmp_path):
    data = images()
    model = classifier(data)
    forward = type(model.net).forward
    trainer().fit(model, cached(tmp_path, model, data))
    assert model.net.forward.__func__ is forward and not model.net._forward_hooks  # nothing is patched
    batch, file = torch.randn(2, 3, 32, 32), io.BytesIO()
    copied = copy.deepcopy(model.eval())
    torch.save(model, file)
    with torch.no_grad():
        expected = model(batch)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(copied(batch), expected)
        assert torch.equal(torch.load(io.BytesIO(file.getvalue()), weights_only=False)(batch), expected)


def test_images_and_features_of_one_data_module_are_independent(tmp_path):
    data = images()
    model = classifier(data)
    features = cached(tmp_path, model, data)
    own = trainer()
    own.fit(model, features)
    (expected,) = own.test(model, features, verbose=False)
    (plain,) = trainer().test(model, data, verbose=False)
    assert plain == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ZeroDivisionError):
        trainer(Failing()).fit(model, features)
    trainer().fit(classifier(data, finetune="full"), data)


class Failing(pl.Callback):
    def on_train_batch_end(self, *of):
        raise ZeroDivisionError


def test_test_on_other_data_never_changes_the_head(tmp_path):
    data, other = images(), images(OTHER)
    model = classifier(data, finetune="linear_probe", weight_decay=0.01)
    features = FeatureCache(tmp_path).load(model, data)
    fit_linear_probe(model, [view.values for view in features["train"]], [data.splits["train"].labels])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classifier(other)
    (found,) = trainer().test(model, cached(tmp_path, model, other), verbose=False)
    trainer().validate(model, FeatureDataModule(data, features), verbose=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (plain,) = trainer().test(model, other, verbose=False)
    assert found == pytest.approx(plain, rel=1e-5)


def test_test_after_full_fine_tuning_keeps_the_tuned_head(tmp_path):
    data = images()
    model = classifier(data, finetune="full", head_start="solved", weight_decay=0.01)
    with pytest.raises(UserError, match="head_start=solved needs fit_linear_probe"):
        trainer().fit(model, data)
    features = FeatureCache(tmp_path).load(model, data)
    assert list(features) == ["train"]
    fit_linear_probe(model, [view.values for view in features["train"]], [data.splits["train"].labels])
    trainer().fit(model, data)
    tuned = model.net.fc.weight.clone()
    trainer().test(model, data, verbose=False)
    assert torch.equal(model.net.fc.weight, tuned)


def test_resume_with_another_backbone_uses_that_backbone(run, tmp_path):
    straight, _ = run("features=off", "scheduler=none", "debugger=off", "epochs=2", "seed=1")
    run("features=off", "scheduler=none", "debugger=off", "epochs=1", "seed=1")
    last = tmp_path / "run1" / "checkpoints" / "last.ckpt"
    resumed, _ = run("scheduler=none", "debugger=off", "epochs=2", "data.seed=1", "seed=2", f"resume_from={last}")
    assert resumed["epochs"][1] == pytest.approx(straight["epochs"][1], rel=1e-5)


def test_feature_loader_resumes_in_mid_epoch(tmp_path):
    data = images()
    model = classifier(data)
    features = cached(tmp_path, model, data)
    whole = list(features.train_dataloader())
    loader = iter(features.train_dataloader())
    next(loader)
    state = features.state_dict()
    again = cached(tmp_path, model, data)
    again.load_state_dict(state)
    rest = list(again.train_dataloader())
    assert len(rest) == len(whole) - 1
    assert all(torch.equal(a.features, b.features) for a, b in zip(rest, whole[1:], strict=True))


def test_repeated_image_gets_another_view(tmp_path, write_images):
    data = ImageDataModule(
        write_images(tmp_path / "data", {"train/a": 1, "train/b": 9, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1}),
        image_size=32, num_workers=0, balanced=True,
    )  # fmt: skip
    model = classifier(data)
    data.input_spec = model.input_spec
    features = FeatureDataModule(data, FeatureCache(tmp_path / "cache", views=5).load(model, data))
    rows = [row for batch in features.train_dataloader() for row, image in zip(*batch[::2], strict=True) if image == 0]
    assert len(rows) == 5 == len({row.numpy().tobytes() for row in rows})


def test_load_reports_why_features_are_not_cacheable(tmp_path):
    data = ImageDataModule(DEMO)
    with pytest.raises(NotCacheableError, match=r"data.augment=true"):
        FeatureCache(tmp_path).load(classifier(data), data)


def test_views_that_are_not_available_are_a_user_error(run):
    with pytest.raises(UserError, match=r"features.views=2 is not available: data.augment=false"):
        run("features.views=2")
    with pytest.raises(UserError, match=r"features\.views=-1"):
        run("features.views=-1")


def test_cache_key_changes_with_every_relevant_input(run, tmp_path, write_images):
    folder = write_images(tmp_path / "images", {f"{s}/{c}": 3 for s in ("train", "valid", "test") for c in ("a", "b")})
    cheap = ["epochs=1", "debugger=off", "model.weights=random"]
    url = str(folder)
    assert run(*cheap, url=url)[1] == ALL
    assert run(*cheap, "lr=0.01", url=url)[1] == []
    shutil.copyfile(folder / "train/b/000.jpg", folder / "train/a/000.jpg")
    os.utime(folder / "train/a/000.jpg", (1, 1))
    assert run(*cheap, url=url)[1] == ALL  # an image
    assert run(*cheap, "seed=8", url=url)[1] == ALL  # random weights
    assert run(*cheap, "data.image_size=64", url=url)[1] == ALL  # the transform
    assert run(*cheap, "trainer.precision=bf16-mixed", url=url)[1] == ALL
    assert run(*cheap, url=url)[1] == []
    for path in (tmp_path / "features").glob("*/train.npy"):
        path.write_bytes(path.read_bytes()[:-8])  # truncated
    assert run(*cheap, url=url)[1] == ["train"]


def test_cache_skips_unreadable_images(run, tmp_path, write_images):
    folder = write_images(tmp_path / "images", {f"{s}/{c}": 3 for s in ("train", "valid", "test") for c in ("a", "b")})
    (folder / "train/a/001.jpg").write_bytes(b"no image")
    cheap = ["epochs=1", "debugger=off", "model.weights=random"]
    plain, _ = run("features=off", *cheap, url=str(folder))
    for computed in (ALL, []):
        kept, made = run(*cheap, url=str(folder))
        assert made == computed
        assert list(kept["bad_images"]) == ["train/a/001.jpg"]
        assert kept["epochs"][0] == pytest.approx(plain["epochs"][0], rel=1e-5)
    with pytest.raises(UserError, match=r"001\.jpg"):
        run(*cheap, "data.bad_images=raise", url=str(folder))


def test_cache_of_an_outage_is_not_kept(run, monkeypatch, caplog):
    fetch = DemoStore.fetch

    async def fetch_some(store, key):
        if key.startswith(("train", "test")) and key.endswith("0003.jpg"):
            raise TransientError("no answer")
        return await fetch(store, key)

    cheap = ["epochs=1", "debugger=off"]
    monkeypatch.setattr(retry, "GIVE_UP_S", 1e-9)
    monkeypatch.setattr(DemoStore, "fetch", fetch_some)
    plain, _ = run("features=off", *cheap)
    missing, _ = run(*cheap)
    assert len(plain["bad_images"]) == 6 and missing["bad_images"].keys() == plain["bad_images"].keys()
    assert missing["epochs"][0] == pytest.approx(plain["epochs"][0], rel=1e-5)
    assert "features of train are not cached" in caplog.text
    monkeypatch.setattr(DemoStore, "fetch", fetch)
    whole, computed = run(*cheap)
    assert computed == ["train", "test"] and whole["bad_images"] == {}
    assert run(*cheap)[1] == []


def test_cache_of_an_empty_split_has_no_features(run, tmp_path, write_images):
    folder = write_images(tmp_path / "images", {"a": 5, "b": 5})
    given = ["model.weights=random", "debugger=off", "epochs=1", "data.test_fraction=0", "data.val_fraction=0.2"]
    assert run(*given, url=str(folder))[1] == ["train", "val"]


def test_resume_of_a_run_on_images_may_use_features(run, tmp_path):
    straight, _ = run("features=off", "scheduler=none", "debugger=off", "epochs=3")
    run("features=off", "scheduler=none", "debugger=off", "epochs=1")
    resumed, _ = run("scheduler=none", "debugger=off", "epochs=3", f"resume_from={tmp_path}/run1/checkpoints/last.ckpt")
    for epoch in (1, 2):
        assert resumed["epochs"][epoch] == pytest.approx(straight["epochs"][epoch], rel=1e-5)


def _one_of_several(output, folder, computed, slow):
    os.environ["DOGBREED_FEATURES"] = str(folder)
    torch.set_num_threads(1)
    extract = FeatureExtractor.extract

    def note(self, view, *rest):
        with computed.open("a") as file:
            file.write(f"{view.name}\n")
        time.sleep(slow)
        extract(self, view, *rest)

    FeatureExtractor.extract = note
    train(resolve_defaults(compose("train", [*HEAD, f"data.url='{DEMO}'", "debugger=off", f"output_dir={output}"])))


def test_cache_survives_the_death_of_the_computing_process(tmp_path):
    """The first process is killed while it computes; of two waiting ones, one computes and the other reads."""
    spawn = multiprocessing.get_context("fork")
    computed = tmp_path / "computed"

    def start(name, slow):
        process = spawn.Process(target=_one_of_several, args=(tmp_path / name, tmp_path / "features", computed, slow))
        process.start()
        return process

    first = start("first", 60)
    while not computed.exists():
        assert first.is_alive()
        time.sleep(0.02)
    others = [start(name, 0) for name in ("second", "third")]
    time.sleep(1.0)
    assert computed.read_text() == "train\n"
    os.kill(first.pid, signal.SIGKILL)
    for process in (first, *others):
        process.join(300)
    assert [process.exitcode for process in others] == [0, 0]
    assert computed.read_text().split() == ["train", *ALL]
    second, third = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("second", "third"))
    assert second["epochs"] == third["epochs"]


def test_cache_deletes_the_least_recently_used(run, tmp_path, caplog):
    caplog.set_level("INFO")
    cheap = ["epochs=1", "debugger=off"]
    run(*cheap)
    run(*cheap, "seed=8", "features.max_gb=1e-6")
    assert "deleting the least recently used features" in caplog.text
    assert len(list((tmp_path / "features").glob("*/train.npy"))) == 1


def test_cache_in_an_unwritable_folder_is_a_user_error(run, tmp_path):
    (tmp_path / "features").write_text("")
    with pytest.raises(UserError, match=r"features.folder=.* cannot be written .*features=off"):
        run("debugger=off")


def test_load_uses_the_input_spec_of_the_model(tmp_path):
    data = images()
    model = classifier(data)
    data.input_spec = replace(model.input_spec, mean=(0.0, 0.0, 0.0))
    other = FeatureCache(tmp_path / "other").load(model, data)
    unassigned = FeatureCache(tmp_path / "unassigned").load(model, images())
    classifier(data)
    expected = FeatureCache(tmp_path / "expected").load(model, data)
    for split, (view,) in expected.items():
        assert np.array_equal(other[split][0].values, view.values)
        assert np.array_equal(unassigned[split][0].values, view.values)


def test_damaged_features_are_computed_again(tmp_path, caplog):
    data = images()
    model = classifier(data)
    before = FeatureCache(tmp_path).load(model, data)["train"][0].values.copy()
    [path] = tmp_path.glob("*/train.npy")
    content = bytearray(path.read_bytes())
    content[-3] ^= 255
    path.write_bytes(content)
    again = FeatureCache(tmp_path).load(model, data)["train"][0].values
    assert (again == before).all() and "are damaged: computing them again" in caplog.text


def test_full_disk_trains_without_cached_features(run, monkeypatch, caplog):
    def full(file, num_bytes):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "reserve_space", full)
    caplog.set_level(logging.INFO)
    results, _ = run("epochs=1", "debugger=off")
    assert results["epochs"] and "No space left on device" in caplog.text
    with pytest.raises(UserError, match="No space left"):
        run("finetune=linear_probe", "debugger=off")
