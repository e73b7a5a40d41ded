"""One training, from its overrides to the files it writes."""

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra.utils import instantiate
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogbreed import ImageClassifier
from dogbreed.callbacks.metric_line import METRICS, read_metrics
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.run.train import train
from dogbreed.train import main

DEMO = "data.url='demo://?classes=3&train=12&valid=6&test=6&size=32'"
TINY = ["model=timm", "model.name=test_resnet", DEMO, "batch_size=8", "trainer=cpu"]


def run(tmp_path, *overrides):
    return train(resolve_defaults(compose("train", [*TINY, f"output_dir={tmp_path}", *overrides])))


def without_times(results):
    return {key: value for key, value in results.items() if key not in ("seconds", "name", "checkpoint")}


def test_train_writes_metrics_checkpoints_and_results(tmp_path, capsys):
    results = run(tmp_path, "epochs=2", "name='the [/first]'")
    printed = capsys.readouterr().out
    lines = [read_metrics(line) for line in printed.splitlines() if line.startswith("metrics ")]
    assert set(lines[0]) == {"epoch", *METRICS}
    assert [line["epoch"] for line in lines] == [0, 1, results["best_epoch"]]
    assert lines[-1]["val/accuracy"] == max(line["val/accuracy"] for line in lines)
    assert lines[-1]["test/accuracy"] == pytest.approx(results["test"]["test/accuracy"], rel=1e-5)
    assert "top5_accuracy" in printed and "the [/first]: test_resnet on demo://" in printed
    assert json.loads((tmp_path / "results.json").read_text())["epochs"].keys() == {"0", "1"}
    assert all(row["class"].endswith(f".{row['name']}") and 0 <= row["accuracy"] <= 1 for row in results["classes"])
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["name"] == "test_resnet"
    with (tmp_path / "metrics.csv").open() as file:
        epochs = [row for row in csv.DictReader(file) if row["val/accuracy"]]
    assert [float(row["val/loss"]) for row in epochs] == pytest.approx(
        [line["val/loss"] for line in lines[:2]], rel=1e-5
    )
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("val/loss")] == pytest.approx(
        [line["val/loss"] for line in lines[:2]], rel=1e-5
    )
    best = ImageClassifier.load_from_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert len(best.classes) == 3
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert not list((tmp_path / "checkpoints").glob(".*.part"))


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_train_tests_and_exports_the_best_epoch(tmp_path, goal):
    settings = [
        "epochs=2",
        "lr=0.001",
        "objective.metric=val/loss",
        f"objective.goal={goal}",
        "checkpoint_at_end=false",
    ]
    results = run(tmp_path, *settings)
    losses = [results["epochs"][epoch]["val/loss"] for epoch in (0, 1)]
    assert results["best_epoch"] == losses.index(min(losses) if goal == "minimize" else max(losses))
    best = ImageClassifier.load_from_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    data = instantiate(resolve_defaults(compose("train", TINY)).data)
    data.input_spec = best.input_spec
    (tested,) = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(best, data)
    assert results["test"] == pytest.approx(tested, rel=1e-5)
    left = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(left[name], value) for name, value in best.net.state_dict().items() if name in left)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best.ckpt"]


def test_train_is_reproducible_by_seed(tmp_path):
    first, second = (without_times(run(tmp_path / name, "epochs=1")) for name in ("a", "b"))
    assert first == second
    assert without_times(run(tmp_path / "c", "epochs=1", "seed=1"))["epochs"] != first["epochs"]


@pytest.mark.parametrize("folder", ["begun", "resumed"])
def test_resumed_training_equals_an_uninterrupted_one(tmp_path, folder):
    falling = ["scheduler=none", "lr=0.03", "objective.metric=train/loss", "objective.goal=maximize"]
    straight = run(tmp_path / "straight", "epochs=3", *falling)
    run(tmp_path / "begun", "epochs=1", *falling)
    resumed = run(tmp_path / folder, "epochs=3", *falling, f"resume_from={tmp_path}/begun/checkpoints/last.ckpt")
    for epoch in (0, 1, 2):
        assert resumed["epochs"][epoch] == pytest.approx(straight["epochs"][epoch], rel=1e-5)
    assert resumed["best_epoch"] == straight["best_epoch"] == 0
    assert resumed["checkpoint"] == str(tmp_path / folder / "checkpoints" / "best.ckpt")
    assert resumed["test"] == pytest.approx(straight["test"], rel=1e-5)
    card, expected = (json.loads((tmp_path / of / "model/model.json").read_text()) for of in (folder, "straight"))
    assert card["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)


def test_resume_without_the_best_checkpoint_starts_comparing(tmp_path, caplog):
    falling = ["scheduler=none", "lr=0.03", "objective.metric=train/loss", "objective.goal=maximize"]
    run(tmp_path, "epochs=1", *falling)
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.unlink()
    results = run(tmp_path, "epochs=3", *falling, f"resume_from={tmp_path}/checkpoints/last.ckpt")
    assert f"{best}, is gone" in caplog.text
    losses = [metrics["train/loss"] for metrics in results["epochs"].values()]
    assert losses[0] == max(losses) and results["best_epoch"] == losses.index(max(losses[1:]))
    assert best.is_file()


def test_sigterm_stops_with_a_checkpoint_to_resume_from(tmp_path):
    command = [sys.executable, "-m", "dogbreed.train", *TINY, "epochs=500", f"output_dir={tmp_path}", "scheduler=none"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    ) as process:
        for line in process.stdout:
            if line.startswith("metrics epoch=1"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=120) == 143
    assert "stopped by SIGTERM" in rest and "resume_from=" in rest
    assert "Traceback" not in rest
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["epoch"] >= 1 and state["optimizer_states"]
    results = run(
        tmp_path, f"epochs={state['epoch'] + 2}", "scheduler=none", f"resume_from={tmp_path}/checkpoints/last.ckpt"
    )
    assert max(results["epochs"]) == state["epoch"] + 1


def test_sigterm_during_the_test_keeps_model_and_results(tmp_path, monkeypatch):
    step = ImageClassifier.test_step

    def stopped(self, *of):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *of)

    monkeypatch.setattr(ImageClassifier, "test_step", stopped)
    assert main([*TINY, f"output_dir={tmp_path}", "epochs=1", "debugger=off"]) == 143
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["stopped_by"] == "SIGTERM" and "test" not in results and "0" in results["epochs"]
    assert (tmp_path / "model" / "model.json").is_file()


def test_epoch_without_validation_has_no_validation_metrics(tmp_path, monkeypatch, capsys):
    results = run(tmp_path, "epochs=3", "+trainer.check_val_every_n_epoch=2")
    assert ["val/loss" in metrics for metrics in results["epochs"].values()] == [False, True, False]
    step = ImageClassifier.training_step

    def stopped(self, *of):
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *of)

    monkeypatch.setattr(ImageClassifier, "training_step", stopped)
    results = run(tmp_path, "epochs=3")
    assert results["stopped_by"] == "SIGTERM" and results["best_epoch"] == 0
    assert ["val/loss" in metrics for metrics in results["epochs"].values()] == [True, False]


def test_empty_validation_split_needs_another_objective(tmp_path):
    none = [*TINY, "data.url='demo://?classes=3&train=12&valid=0&test=6&size=32'", "data.val_fraction=0", "epochs=2"]
    none.append(f"output_dir={tmp_path}")
    with pytest.raises(UserError, match=r"objective.metric=val/accuracy needs images in val.*data.val_fraction="):
        train(resolve_defaults(compose("train", none)))
    results = train(
        resolve_defaults(compose("train", [*none, "objective.metric=train/loss", "objective.goal=minimize"]))
    )
    assert (tmp_path / "model" / "model.json").is_file() and results["best"].keys() == {"train/loss", "train/accuracy"}


def test_trainer_debug_runs_one_batch_of_each_stage(tmp_path, capsys):
    results = train(resolve_defaults(compose("train", [*TINY[:-1], "trainer=debug", f"output_dir={tmp_path}"])))
    assert results["test"]["test/loss"] > 0
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_unreadable_images_are_skipped_and_listed(tmp_path, demo_folder, caplog):
    first = sorted((demo_folder / "train").rglob("*.jpg"))[0]
    first.write_text("not an image")
    results = run(tmp_path / "out", "data=folder", f"data.url={demo_folder}", "model.weights=random", "epochs=1")
    assert list(results["bad_images"]) == [str(first.relative_to(demo_folder))]
    with pytest.raises(UserError, match=first.name):
        run(tmp_path / "out", "data=folder", f"data.url={demo_folder}", "model.weights=random", "data.bad_images=raise")


@pytest.fixture
def demo_folder(tmp_path):
    """A folder of class folders with a few generated images."""
    from dogbreed.storage import open_store

    store = open_store("demo://?classes=2&train=6&valid=2&test=2&size=32", None)
    for entry in store.list_objects():
        path = tmp_path / "images" / entry.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(asyncio.run(store.fetch(entry.key)).data)
    return tmp_path / "images"


def test_own_images_need_pretrained_weights_by_default(tmp_path, demo_folder, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(UserError, match=r"model\.weights=PATH\.safetensors"):
        run(tmp_path / "out", "data=folder", f"data.url={demo_folder}")


def test_class_folder_with_an_undecodable_name_is_trained(tmp_path, write_images, capsys):
    images = write_images(tmp_path / "images", {"train/a": 12, "train/b": 4, "valid/a": 4, "valid/b": 4})
    for split in ("train", "valid"):
        (images / split / "b").rename(images / split / os.fsdecode(b"\xe9pagneul"))
    out = tmp_path / "out"
    rule = ["+debugger.rules.ClassImbalance.samples=1", "+debugger.rules.ClassImbalance.threshold_imbalance=1"]
    run(out, "data=folder", f"data.url={images}", "model.weights=random", "epochs=2", *rule)
    assert "a has 11 training images, ?pagneul has 3" in capsys.readouterr().out
    assert "\\udce9pagneul" in (out / "results.json").read_text()
    assert (out / "model" / "model.json").is_file() and "?pagneul" in (out / "report.html").read_text()


def test_error_in_the_report_does_not_fail_the_training(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr("dogbreed.run.train.write_report", lambda *of, **settings: 1 / 0)
    results = run(tmp_path, "epochs=1")
    assert json.loads((tmp_path / "results.json").read_text())["best"] == results["best"]
    assert (tmp_path / "model" / "model.json").is_file()
    assert "there is no report: ZeroDivisionError" in caplog.text and "test_resnet on demo" in capsys.readouterr().out


def test_diverged_training_stops_with_a_hint(tmp_path, caplog):
    results = run(tmp_path, "epochs=30", "lr=1e20", "optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false")
    assert "diverged" in caplog.text
    assert len(results["epochs"]) < 30
    saved = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert None in [value for epoch in saved["epochs"].values() for value in epoch.values()]


class Seen(pl.Callback):
    epochs = 0

    def on_train_epoch_end(self, trainer, pl_module):
        Seen.epochs += 1


def test_user_callbacks_and_loggers_are_added_to_ours(tmp_path):
    callback, early = "{_target_: tests.run.test_train.Seen}", "pytorch_lightning.callbacks.EarlyStopping"
    stopping = f"{{_target_: {early}, monitor: train/loss, patience: 1, min_delta: 1000}}"
    logger = f"{{_target_: pytorch_lightning.loggers.CSVLogger, save_dir: {tmp_path}/own}}"
    Seen.epochs = 0
    results = run(tmp_path, "epochs=9", f"+trainer.callbacks=[{callback},{stopping}]", f"+trainer.logger={logger}")
    assert len(results["epochs"]) == 2 == Seen.epochs
    assert (tmp_path / "metrics.csv").is_file() and list((tmp_path / "own").rglob("metrics.csv"))
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


def test_training_that_ends_before_validation_is_validated(tmp_path):
    results = run(tmp_path, "epochs=3", "+trainer.max_steps=3")
    assert set(results["epochs"][0]) == set(METRICS) and results["best_epoch"] == 0
    assert (tmp_path / "model" / "model.json").is_file()


@pytest.mark.parametrize("kind", ["best", "damaged", "other"])
def test_resume_from_an_unsuitable_checkpoint_is_a_user_error(tmp_path, kind):
    run(tmp_path, "epochs=1")
    path = tmp_path / "checkpoints" / ("best.ckpt" if kind == "best" else "last.ckpt")
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    other = ["model.name=test_vit"] if kind == "other" else []
    with pytest.raises(UserError, match=r"is not a checkpoint that this model can resume from .*model\.weights="):
        run(tmp_path / "again", "epochs=2", f"resume_from={path}", *other)


def test_unwritable_output_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run(tmp_path / "file" / "out")


def test_resume_from_a_missing_checkpoint_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="resume_from=/no/such"):
        run(tmp_path, "resume_from=/no/such")


def test_wrong_argument_is_one_line_and_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "dogbreed.train", "model=resnet43"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: model 'resnet43' is unknown; did you mean resnet34?")
    assert done.stderr.count("\n") == 1


def test_main_returns_0(tmp_path):
    assert main([*TINY, "epochs=1", f"output_dir={tmp_path}"]) == 0
    assert Path(tmp_path, "results.json").is_file()
