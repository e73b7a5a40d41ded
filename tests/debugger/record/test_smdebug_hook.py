from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dogbreed.debugger.findings import Status
from dogbreed.debugger.rules.evaluate import evaluate
from dogbreed.errors import UserError
from tests.debugger.tiny import TinyData, TinyModel, network, train

pytest.importorskip("smdebug", reason="smdebug is not installed: pip install -e '.[debug]'")

SMALL = TinyData((32, 32), batch_size=16, val=8)


def config(**smdebug) -> dict:
    return {"smdebug": {"enabled": True, "save_interval": 2, **smdebug}}


def saved(folder: Path):
    from smdebug.trials import create_trial

    return create_trial(str(folder))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of 8 optimizer steps with a sanity check and two validations."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    collections = ["weights", "biases", "gradients", "losses", "relu_input", "relu_output"]
    train(folder, TinyModel(network(2)), SMALL, 2, config(collections=collections), num_sanity_val_steps=2)
    return folder / "debug-output"


def test_create_trial_reads_optimizer_steps(finished: Path):
    from smdebug import modes

    trial = saved(finished)
    assert trial.steps(mode=modes.TRAIN) == [0, 2, 4, 6]
    assert trial.tensor("train_loss_output_0").steps(mode=modes.TRAIN) == [0, 2, 4, 6]
    assert trial.tensor("val_loss_output_0").steps(mode=modes.EVAL) == [0, 1]
    assert "gradient/Sequential_0.weight" in trial.tensor_names(collection="gradients")
    assert "Sequential_0.bias" in trial.tensor_names(collection="biases")


def test_input_of_in_place_relu_is_saved_unchanged(finished: Path):
    trial = saved(finished)
    assert trial.tensor_names(collection="relu_input") == ["2_input_0", "5_input_0", "8_input_0"]
    assert trial.tensor("2_input_0").value(0).min() < 0
    assert trial.tensor("2_output_0").value(0).min() == 0


def test_rules_read_the_folder(finished: Path):
    from dogbreed.debugger.read.smdebug_trial import is_smdebug, read_smdebug

    assert is_smdebug(finished)
    recording = read_smdebug(finished)
    assert recording.problems == []
    findings = {finding.rule: finding.status for finding in evaluate(recording)}
    assert findings["ExplodingTensor"] is Status.OK
    assert findings["VanishingGradient"] is Status.OK
    assert findings["UnchangedTensor"] is Status.OK
    assert findings["ClassImbalance"] is Status.NOT_APPLICABLE
    assert Status.ERROR not in findings.values()


def test_old_sagemaker_job_is_read_from_both_folders(tmp_path: Path):
    from dogbreed.debugger.report.report import write_report

    profiler = {"profiler": {"enabled": True, "interval_ms": 100}}
    train(tmp_path, TinyModel(network(2)), SMALL, 3, {**config(), **profiler}, test=False)
    shutil.rmtree(tmp_path / "debug")  # keeps only the files of an old SageMaker job
    found = {finding.rule: finding.status for finding in write_report(tmp_path, print_findings=False).findings}
    assert found["ExplodingTensor"] is found["VanishingGradient"] is found["OverallSystemUsage"] is Status.OK
    assert Status.ERROR not in found.values()


def test_truncated_files_are_reported_and_skipped(finished: Path, tmp_path: Path):
    from dogbreed.debugger.read.smdebug_trial import read_smdebug

    broken = tmp_path / "debug-output"
    shutil.copytree(finished, broken)
    (broken / "training_job_end.ts").unlink()
    index = sorted(broken.glob("index/*/*.json"))[-1]
    index.write_text(index.read_text()[:100])
    event = sorted(broken.glob("events/*/*"))[1]
    event.write_bytes(event.read_bytes()[: event.stat().st_size // 2])
    recording = read_smdebug(broken)
    assert any("truncated index" in problem for problem in recording.problems)
    assert any("could not be read" in problem for problem in recording.problems)
    assert 0 in recording.inputs["gradients"].steps
    assert all(finding.status is not Status.ERROR for finding in evaluate(recording))


@pytest.mark.parametrize("content", ["{}", "not json", '{"collections": {"weights": {"version": 9}}}'])
def test_folder_of_another_version_is_reported(content: str, tmp_path: Path):
    from dogbreed.debugger.read.smdebug_trial import read_smdebug

    (tmp_path / "events" / "000000000000").mkdir(parents=True)
    (tmp_path / "collections" / "000000000").mkdir(parents=True)
    (tmp_path / "collections" / "000000000" / "worker_0_collections.json").write_text(content)
    recording = read_smdebug(tmp_path)
    assert recording.problems or not recording.inputs
    assert all(finding.status is not Status.OK for finding in evaluate(recording))


def test_folder_of_another_framework_is_reported(finished: Path, tmp_path: Path):
    from dogbreed.debugger.report.report import write_report

    other = tmp_path / "debug-output"
    shutil.copytree(finished, other)
    for path in other.rglob("*.json"):
        text = path.read_text()
        for ours, theirs in {"weight": "kernel", "bias": "beta", "loss_output": "xent", "relu_input": "x"}.items():
            text = text.replace(ours, theirs)
        path.write_text(text)
    report = write_report(other, print_findings=False)
    assert "16 of 36 tensors do not have a PyTorch name" in report.html.read_text()
    found = {finding.rule: finding.status for finding in report.findings}
    assert found["LossNotDecreasing"] is found["UnchangedTensor"] is Status.INSUFFICIENT_DATA


def test_nan_is_an_issue_of_its_step(tmp_path: Path):
    from dogbreed.debugger.report.report import write_report

    class Poison(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 3:
                pl_module.net[0].weight.grad[0] = float("nan")

    model = TinyModel(network(2), optimizer="SGD")
    train(tmp_path, model, SMALL, 2, config(save_interval=1), callbacks=[Poison()], test=False)
    findings = {
        finding.rule: finding for finding in write_report(tmp_path / "debug-output", print_findings=False).findings
    }
    exploding = findings["ExplodingTensor"]
    assert exploding.status is Status.ISSUE
    assert (exploding.outcome.evidence[0].step, exploding.outcome.evidence[0].tensor) == (4, "0.weight")
    assert Status.ERROR not in {finding.status for finding in findings.values()}


def test_gradients_of_later_unfrozen_parameters_are_saved(tmp_path: Path):
    class Unfreeze(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.net[0].weight.requires_grad = trainer.current_epoch > 0

    model = TinyModel(network(2), optimizer="SGD", lr=0.01)
    train(tmp_path, model, SMALL, 2, config(), callbacks=[Unfreeze()], test=False)
    assert saved(tmp_path / "debug-output").tensor("gradient/Sequential_0.weight").steps() != []


def test_second_fit_reused_folder_accumulation_and_bfloat16(tmp_path: Path):
    from smdebug import modes

    (tmp_path / "debug-output" / "events").mkdir(parents=True)
    settings = config(collections=["gradients", "losses", "relu_input"])
    model = TinyModel(network(2))
    trainer = train(tmp_path, model, SMALL, 2, settings, test=False, accumulate_grad_batches=2, precision="bf16-mixed")
    assert saved(tmp_path / "debug-output").steps(mode=modes.TRAIN) == [0, 2]
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, SMALL)
    assert saved(tmp_path / "debug-output").steps(mode=modes.TRAIN) == [0, 2, 4, 6]


def test_hook_configuration_of_a_job_is_applied(tmp_path: Path, monkeypatch):
    path = tmp_path / "debughookconfig.json"
    out = tmp_path / "tensors"
    settings = {"CollectionName": "gradients", "CollectionParameters": {"save_interval": "3"}}
    path.write_text(
        json.dumps({"S3OutputPath": "s3://b/p", "LocalPath": str(out), "CollectionConfigurations": [settings]})
    )
    monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(path))
    train(tmp_path / "run", TinyModel(network(2)), SMALL, 2, config(), test=False)
    from smdebug import modes

    assert saved(out).tensor("gradient/Sequential_0.weight").steps(mode=modes.TRAIN) == [0, 3, 6]
    assert not (tmp_path / "run" / "debug-output").exists()


def test_hook_does_not_change_the_training(tmp_path: Path):
    def losses(settings: dict) -> list[float]:
        pl.seed_everything(0, verbose=False)
        model = TinyModel(network(2))
        train(tmp_path, model, SMALL, 2, settings, test=False)
        return model.losses

    collections = ["weights", "gradients", "losses", "relu_input", "relu_output"]
    assert losses({}) == losses(config(collections=collections, save_interval=1))


def test_reductions_are_read(tmp_path: Path):
    from dogbreed.debugger.read.smdebug_trial import read_smdebug

    settings = config(
        reductions=["min", "max", "mean", "variance", "abs_mean", "abs_max"], collections=["gradients", "losses"]
    )
    train(tmp_path, TinyModel(network(2)), SMALL, 2, settings, test=False)
    series = read_smdebug(tmp_path / "debug-output").inputs["gradients"]
    assert np.isfinite(series.stat("abs_mean")).all()


def test_unknown_collection_error_lists_collections(tmp_path: Path):
    with pytest.raises(UserError, match="gradients"):
        train(tmp_path, TinyModel(network(2)), SMALL, 1, config(collections=["gradient"]))
