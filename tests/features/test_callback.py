"""Features kept for a frozen backbone: the numbers of a training without, and never those of something else."""

import copy
import io
import json
import multiprocessing
import os
import shutil
import signal
import time
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dogbreed import ImageClassifier, ImageDataModule
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.features import FeatureCache
from dogbreed.features import callback as keep
from dogbreed.run.train import train
from dogbreed.storage import retry as patience
from dogbreed.storage.base import BusyError
from dogbreed.storage.demo import DemoStore

DEMO = "demo://?classes=3&train=12&valid=6&test=6&size=32"
TINY = ["model=timm", "model.name=test_resnet", "batch_size=8", "trainer=cpu", "finetune=head", "epochs=2", "lr=0.05"]
HEAD = [*TINY, "data.augment=false"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains with features kept below tmp_path; returns results, and which parts were computed."""
    monkeypatch.setenv("DOGBREED_FEATURES", str(tmp_path / "features"))
    computed = []
    compute = keep.Computer.compute

    def note(self, part, *rest):
        computed.append(part.name)
        compute(self, part, *rest)

    monkeypatch.setattr(keep.Computer, "compute", note)

    def run(*overrides, url=DEMO, base=HEAD):
        computed.clear()
        output = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        kind = "demo" if url.startswith("demo") else "folder"
        typed = [*base, f"data={kind}", f"data.url='{url}'", f"output_dir={output}", *overrides]
        return train(resolve_defaults(compose("train", typed))), list(computed)

    return run


def numbers(results):
    return results["epochs"], results["test"], results["classes"]


ALL = ["train", "valid", "test"]


def test_the_numbers_are_those_of_a_training_without_and_the_second_training_computes_nothing(run, tmp_path, caplog):
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


@pytest.mark.parametrize(("small", "threads"), [(keep._SMALL, 1), (0, 2)])
def test_a_small_head_is_trained_by_one_thread_which_torch_forgets_again(run, monkeypatch, small, threads):
    monkeypatch.setattr(keep, "_SMALL", small)
    seen = []
    step = ImageClassifier.training_step
    monkeypatch.setattr(ImageClassifier, "training_step", lambda *of: seen.append(torch.get_num_threads()) or step(*of))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run()
        assert set(seen) == {threads} and torch.get_num_threads() == 2
        monkeypatch.setattr(ImageClassifier, "training_step", lambda *of: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_left_is_the_whole_network_and_the_whole_report(run, tmp_path):
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


def test_dropout_before_the_head_draws_the_same_and_both_sides_of_a_image_are_asked(run):
    plain, _ = run("features=off", "+model.kwargs.drop_rate=0.3", "tta=true")
    kept, computed = run("+model.kwargs.drop_rate=0.3", "tta=true")
    assert computed == ["train", "valid-both-sides", "test-both-sides"]
    assert kept["epochs"][1] == pytest.approx(plain["epochs"][1], rel=1e-5)
    assert kept["test"] == pytest.approx(plain["test"], rel=1e-5)


def test_as_many_views_as_epochs_are_the_training_without(run):
    plain, _ = run("features=off", "data.augment=true")
    kept, computed = run("features.views=2", "data.augment=true")
    assert computed == ["train-7-0.08-0-0", "train-7-0.08-0-1", "valid", "test"]
    for epoch in (0, 1):
        assert kept["epochs"][epoch] == pytest.approx(plain["epochs"][epoch], rel=1e-5)
    _, computed = run("features.views=3", "data.augment=true")
    assert computed == ["train-7-0.08-0-2"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.augment=true"], "data.augment=true shows other crops each time"),
        (["finetune=full"], "finetune=full trains it"),
        (["finetune=gradual"], "finetune=gradual trains it"),
        (["trainer.precision=64-true"], "trainer.precision=64-true"),
        (["model.name=test_convnext", "+model.kwargs.drop_rate=0.5"], "more than one linear layer"),
    ],
)
def test_nothing_is_kept_where_it_would_change_the_training(run, tmp_path, caplog, overrides, reason):
    caplog.set_level("INFO")
    run(*overrides, "epochs=1", "debugger=off")
    assert f"the backbone runs in every epoch: {reason}" in caplog.text or reason in caplog.text
    assert not (tmp_path / "features").exists()


def classifier(data, seed=1, **settings):
    pl.seed_everything(seed, verbose=False)
    return ImageClassifier("test_resnet", data.classes, **{"weights": "random", "lr": 0.05, **settings})


def trainer(*callbacks):
    return pl.Trainer(
        accelerator="cpu", callbacks=list(callbacks), max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def fitted(data, folder, **settings):
    model = classifier(data, **settings)
    trainer(FeatureCache(folder)).fit(model, data)
    return model


def kept(folder):
    return {path.relative_to(folder): np.load(path) for path in folder.glob("*/*.npy")}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_that_ran_on_features_makes_the_same_of_other_images_as_a_new_one(tmp_path, monkeypatch, compiled):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    first, second = (ImageDataModule(url, augment=False) for url in (DEMO, DEMO.replace("12", "9")))
    model = fitted(first, tmp_path / "used", compile=compiled)
    trainer(FeatureCache(tmp_path / "used")).fit(model, second)
    fitted(second, tmp_path / "new")
    used, new = kept(tmp_path / "used"), kept(tmp_path / "new")
    assert len(new) == 3 and new.keys() <= used.keys()
    assert all(np.array_equal(used[name], values) for name, values in new.items())


def test_a_copy_of_a_model_that_ran_on_features_is_a_model_of_its_own_and_can_be_written(tmp_path):
    data = ImageDataModule(DEMO, augment=False)
    model = fitted(data, tmp_path).eval()
    copied, images = copy.deepcopy(model), torch.randn(2, 3, 32, 32)
    file = io.BytesIO()
    torch.save(model, file)
    with torch.no_grad():
        expected = model(images)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(copied(images), expected)
        assert torch.equal(torch.load(io.BytesIO(file.getvalue()), weights_only=False)(images), expected)


def test_data_give_features_to_none_but_the_model_whose_they_are(tmp_path):
    data = ImageDataModule(DEMO, augment=False)
    first = classifier(data)
    own = trainer(FeatureCache(tmp_path))
    own.fit(first, data)
    expected = own.test(first, data, verbose=False)
    fitted(data, tmp_path, seed=2)
    assert own.test(first, data, verbose=False) == expected
    (plain,) = trainer().test(first, data, verbose=False)
    assert plain == pytest.approx(expected[0], rel=1e-5)
    trainer().fit(classifier(data, finetune="full"), data)
    with pytest.raises(ZeroDivisionError):
        trainer(FeatureCache(tmp_path), Failing()).fit(first, data)
    trainer().fit(classifier(data, finetune="full"), data)


class Failing(pl.Callback):
    def on_train_batch_end(self, *of):
        raise ZeroDivisionError


def test_a_callback_makes_the_features_of_each_model_and_data_that_its_trainer_is_given(tmp_path):
    first, second = (ImageDataModule(url, augment=False) for url in (DEMO, DEMO.replace("12", "9")))
    model = classifier(first)
    once = trainer(FeatureCache(tmp_path))
    for data in (first, second):
        once.test(model, data, verbose=False)
    assert sorted(map(len, (values for name, values in kept(tmp_path).items() if name.stem == "train"))) == [27, 36]
    (again,), (plain,) = (t.test(classifier(first, lr=1), second, verbose=False) for t in (once, trainer()))
    assert again == pytest.approx(plain, rel=1e-5)


def test_a_checkpoint_with_another_backbone_is_tested_and_gone_on_from_as_what_it_is(tmp_path):
    data = ImageDataModule(DEMO, augment=False)
    plain, keeping = trainer(), trainer(FeatureCache(tmp_path))
    file = tmp_path / "other.ckpt"
    plain.fit(classifier(data), data)
    plain.save_checkpoint(file)
    (expected,) = plain.test(plain.model, data, verbose=False)
    model = classifier(data, seed=2)
    for _ in range(2):  # with features of the model's own backbone, and after they were found to be of no use
        (found,) = keeping.test(model, data, ckpt_path=file, verbose=False)
        assert found == pytest.approx(expected, rel=1e-5)
    for resumed in (plain, keeping):
        resumed.fit_loop.max_epochs = 2
        resumed.fit(classifier(data, seed=3), data, ckpt_path=file)
    for name, value in plain.callback_metrics.items():
        assert float(keeping.callback_metrics[name]) == pytest.approx(float(value), rel=1e-5), name


def test_views_that_can_not_be_had_are_an_error(run):
    with pytest.raises(UserError, match=r"features.views=2 cannot be had: data.augment=false"):
        run("features.views=2")
    with pytest.raises(UserError, match=r"features\.views=-1"):
        run("features.views=-1")


def test_whatever_changes_is_computed_anew(run, tmp_path, write_images):
    images = write_images(tmp_path / "images", {f"{s}/{c}": 3 for s in ("train", "valid", "test") for c in ("a", "b")})
    cheap = ["epochs=1", "debugger=off", "model.weights=random"]
    url = str(images)
    assert run(*cheap, url=url)[1] == ALL
    assert run(*cheap, "lr=0.01", url=url)[1] == []
    shutil.copyfile(images / "train/b/000.jpg", images / "train/a/000.jpg")
    os.utime(images / "train/a/000.jpg", (1, 1))
    assert run(*cheap, url=url)[1] == ALL  # an image
    assert run(*cheap, "seed=8", url=url)[1] == ALL  # weights: random ones are other ones
    assert run(*cheap, "data.image_size=64", url=url)[1] == ALL  # the transform
    assert run(*cheap, "trainer.precision=bf16-mixed", url=url)[1] == ALL
    assert run(*cheap, url=url)[1] == []
    for path in (tmp_path / "features").glob("*/train.npy"):
        path.write_bytes(path.read_bytes()[:-8])  # cut short
    assert run(*cheap, url=url)[1] == ["train"]


def test_unreadable_images_are_left_out_of_kept_features_too(run, tmp_path, write_images):
    images = write_images(tmp_path / "images", {f"{s}/{c}": 3 for s in ("train", "valid", "test") for c in ("a", "b")})
    (images / "train/a/001.jpg").write_bytes(b"no image")
    cheap = ["epochs=1", "debugger=off", "model.weights=random"]
    plain, _ = run("features=off", *cheap, url=str(images))
    for computed in (ALL, []):
        kept, made = run(*cheap, url=str(images))
        assert made == computed
        assert list(kept["bad_images"]) == ["train/a/001.jpg"]
        assert kept["epochs"][0] == pytest.approx(plain["epochs"][0], rel=1e-5)
    with pytest.raises(UserError, match=r"001\.jpg"):
        run(*cheap, "data.bad_images=raise", url=str(images))


def test_a_image_that_was_missed_in_an_outage_is_there_for_the_next_training(run, monkeypatch, caplog):
    fetch = DemoStore.fetch

    async def fetch_some(store, key):
        if key.startswith(("train", "test")) and key.endswith("0003.jpg"):
            raise BusyError("no answer")
        return await fetch(store, key)

    cheap = ["epochs=1", "debugger=off"]
    monkeypatch.setattr(patience, "GIVE_UP_S", 1e-9)
    monkeypatch.setattr(DemoStore, "fetch", fetch_some)
    plain, _ = run("features=off", *cheap)
    missing, _ = run(*cheap)
    assert len(plain["bad_images"]) == 6 and missing["bad_images"].keys() == plain["bad_images"].keys()
    assert missing["epochs"][0] == pytest.approx(plain["epochs"][0], rel=1e-5)
    assert "features of train are not kept" in caplog.text
    monkeypatch.setattr(DemoStore, "fetch", fetch)
    whole, computed = run(*cheap)
    assert computed == ["train", "test"] and whole["bad_images"] == {}
    assert run(*cheap)[1] == []


def test_a_split_without_images_has_no_features(run, tmp_path, write_images):
    images = write_images(tmp_path / "images", {"a": 5, "b": 5})
    typed = ["model.weights=random", "debugger=off", "epochs=1", "data.test_fraction=0", "data.valid_fraction=0.2"]
    assert run(*typed, url=str(images))[1] == ["train", "valid"]


def test_a_resumed_training_may_turn_to_kept_features(run, tmp_path):
    straight, _ = run("features=off", "scheduler=none", "debugger=off", "epochs=3")
    run("features=off", "scheduler=none", "debugger=off", "epochs=1")
    resumed, _ = run("scheduler=none", "debugger=off", "epochs=3", f"resume_from={tmp_path}/run1/checkpoints/last.ckpt")
    for epoch in (1, 2):
        assert resumed["epochs"][epoch] == pytest.approx(straight["epochs"][epoch], rel=1e-5)


def _one_of_several(output, folder, computed, slow):
    os.environ["DOGBREED_FEATURES"] = str(folder)
    torch.set_num_threads(1)
    compute = keep.Computer.compute

    def note(self, part, *rest):
        with computed.open("a") as file:
            file.write(f"{part.name}\n")
        time.sleep(slow)
        compute(self, part, *rest)

    keep.Computer.compute = note
    train(resolve_defaults(compose("train", [*HEAD, f"data.url='{DEMO}'", "debugger=off", f"output_dir={output}"])))


def test_of_several_trainings_one_computes_and_its_death_is_survived(tmp_path):
    """The first is killed while it computes; of two that wait, one computes and the other reads."""
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


def test_the_folder_is_bounded(run, tmp_path, caplog):
    caplog.set_level("INFO")
    cheap = ["epochs=1", "debugger=off"]
    run(*cheap)
    run(*cheap, "seed=8", "features.max_gb=1e-6")
    assert "deleting features that were not used for longest" in caplog.text
    assert len(list((tmp_path / "features").glob("*/train.npy"))) == 1


def test_a_folder_that_can_not_be_written_is_one_line(run, tmp_path):
    (tmp_path / "features").write_text("")
    with pytest.raises(UserError, match=r"features.folder=.* cannot be written .*features=off"):
        run("debugger=off")
