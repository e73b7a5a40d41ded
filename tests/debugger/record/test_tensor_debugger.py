"""The tensor recorder never changes the numbers of a training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.record.network import head_prefix, parameter_tags, root_module
from dogbreed.debugger.record.reductions import statistics
from dogbreed.debugger.record.tensor_stats import TensorStats
from dogbreed.debugger.rules.evaluate import all_rules
from dogbreed.debugger.series import STATISTICS, describe
from dogbreed.errors import UserError
from tests.debugger.tiny import CONFIG, TinyData, TinyModel, network, train

SMALL = TinyData((32, 32), batch_size=16, val=8)


def run(folder: Path, config: dict | None = None, **settings) -> TinyModel:
    pl.seed_everything(1, verbose=False)
    model = TinyModel(network(2), **settings.pop("model", {}))
    train(folder, model, SMALL, settings.pop("epochs", 3), config, **settings)
    return model


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_recorder_does_not_change_the_loss(tmp_path: Path, settings: dict):
    with_debugger, without = run(tmp_path, **settings), run(tmp_path, {}, **settings)
    assert with_debugger.losses == without.losses
    for a, b in zip(with_debugger.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)


def test_recorded_loss_is_that_of_each_optimizer_step(tmp_path: Path):
    model = run(tmp_path, num_sanity_val_steps=2)
    losses = read_run(tmp_path).inputs["losses"]
    assert losses.steps.tolist() == list(range(12))
    assert losses.values == pytest.approx(model.losses, rel=1e-5)


def test_accumulated_batches_are_one_step(tmp_path: Path):
    model = run(tmp_path, accumulate_grad_batches=2)
    inputs = read_run(tmp_path).inputs
    pairs = np.array(model.losses).reshape(-1, 2).mean(axis=1)
    assert inputs["losses"].values == pytest.approx(pairs, rel=1e-5)
    assert inputs["gradients"].steps.tolist() == list(range(6))


def test_statistics_equal_numpy():
    random = torch.Generator().manual_seed(0)
    tensors = [torch.randn(20, 30, generator=random), torch.zeros(7), torch.tensor([1.0, 0.0, -3.0])]
    for row, tensor in zip(statistics(tensors), tensors, strict=True):
        expected = describe(tensor.double().numpy().ravel())
        for name, value in zip(STATISTICS, row.tolist(), strict=True):
            tolerance = 0.4 if name in ("p5", "p95") else 1e-4  # percentiles use 256 elements
            assert value == pytest.approx(expected[name], abs=tolerance), name


def test_large_tensors_are_sampled_except_for_extremes():
    random = torch.Generator().manual_seed(0)
    tensor = torch.randn(512, 512, 3, 3, generator=random)
    tensor[:, :, 0, 0] = 0
    tensor[100, 100, 1, 1] = 50
    row = dict(zip(STATISTICS, statistics([tensor])[0].tolist(), strict=True))
    assert row["abs_max"] == 50
    assert row["abs_mean"] == pytest.approx(tensor.abs().mean().item(), rel=0.05)
    assert row["zero_fraction"] == pytest.approx(1 / 9, abs=0.02)
    nearly = torch.zeros(1_000_000)
    assert statistics([nearly])[0, 4] == 1
    nearly[777] = 1e-3
    assert statistics([nearly])[0, 4] < 1
    last = torch.randn(64, 32, 3, 3, generator=random)
    assert statistics([last.to(memory_format=torch.channels_last)])[0].tolist() == pytest.approx(
        statistics([last.permute(0, 2, 3, 1).contiguous()])[0].tolist()
    )


def test_nan_and_infinity_are_counted_separately():
    largest = statistics([torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("inf")])])[:, 2]
    assert torch.isnan(largest[0]) and torch.isinf(largest[1])


def test_recorded_gradients_and_updates_equal_the_optimizer(tmp_path: Path):
    seen: list[tuple[float, float]] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.before = pl_module.net[0].weight.detach().clone()
            self.gradient = pl_module.net[0].weight.grad.abs().mean().item()

        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append((self.gradient, (pl_module.net[0].weight - self.before).abs().mean().item()))

    run(tmp_path, callbacks=[Watch()], epochs=1)
    inputs = read_run(tmp_path).inputs
    assert inputs["gradients"].names[0] == "0.weight"
    assert inputs["gradients"].stat("abs_mean")[:, 0] == pytest.approx([g for g, _ in seen], rel=1e-4)
    assert inputs["updates"].stat("abs_mean")[:, 0] == pytest.approx([u for _, u in seen], rel=1e-4)


def test_later_unfrozen_parameters_appear_when_unfrozen(tmp_path: Path):
    class Unfreeze(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.net[0].weight.requires_grad = trainer.current_epoch > 0

    run(tmp_path, epochs=2, callbacks=[Unfreeze()], model={"optimizer": "SGD"})
    series = read_run(tmp_path).inputs["gradients"]
    column = series.stat("abs_mean")[:, series.names.index("0.weight")]
    assert np.isnan(column[:4]).all() and np.isfinite(column[4:]).all()


def test_second_fit_appends_and_reused_folder_is_cleared(tmp_path: Path):
    pl.seed_everything(1, verbose=False)
    model = TinyModel(network(2))
    trainer = train(tmp_path, model, SMALL, 1, test=False)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, SMALL)
    assert read_run(tmp_path).inputs["losses"].steps.tolist() == list(range(8))
    run(tmp_path, epochs=1)
    recording = read_run(tmp_path)
    assert recording.inputs["losses"].steps.tolist() == list(range(4))
    assert recording.problems == []


def test_interval_and_first_steps_are_recorded(tmp_path: Path):
    tensors = {"enabled": True, "every_n_steps": 5, "first_steps": 2}
    run(tmp_path, {"tensors": tensors})
    assert read_run(tmp_path).inputs["gradients"].steps.tolist() == [0, 1, 5, 10]


def test_stop_on_ends_the_training_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 3:
                with torch.no_grad():
                    pl_module.net[-1].weight[0, 0] = float("nan")

    model = run(tmp_path, {**CONFIG, "stop_on": ["ExplodingTensor"]}, callbacks=[Poison()], epochs=5)
    assert len(model.losses) < 20
    assert "finding=ExplodingTensor status=issue" in capsys.readouterr().out
    recording = read_run(tmp_path)
    [stopped] = [row for row in recording.events if row["name"] == "stopped"]
    assert (stopped["by"], stopped["step"]) == ("ExplodingTensor", 4)


def test_stop_on_never_ends_a_healthy_training(tmp_path: Path):
    """Rules that judge a whole training, such as LossNotDecreasing, wait until they can."""
    judged = [name for name, rule in all_rules().items() if rule.group in ("tensor", "training")]
    every = {"enabled": True, "every_n_steps": 5}
    pl.seed_everything(0, verbose=False)
    model = TinyModel(lr=5e-4)
    train(tmp_path, model, TinyData(batch_size=16), 3, {"tensors": every, "stop_on": judged})
    assert len(model.losses) == 3 * 600 // 16 + 2


def test_mistake_in_stop_on_or_rules_raises_immediately(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean Overfit"):
        run(tmp_path, {**CONFIG, "stop_on": ["Overfitt"]})
    with pytest.raises(UserError, match="tensors"):
        run(tmp_path, {"stop_on": ["Overfit"]})
    with pytest.raises(UserError, match="did you mean tensors"):
        run(tmp_path, {"tensor": {"enabled": True}})


def test_failed_training_keeps_records_and_writes_report(tmp_path: Path):
    class Fail(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 6:
                raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        run(tmp_path, callbacks=[Fail()])
    recording = read_run(tmp_path)
    assert recording.inputs["gradients"].steps.tolist() == list(range(6))
    assert "out of memory" in recording.events[-1]["why"]
    assert "it failed at step 6: RuntimeError: out of memory" in (tmp_path / "report.html").read_text()


def test_recording_describes_the_run(tmp_path: Path):
    run(tmp_path)
    settings = json.loads((tmp_path / "debug" / "run.json").read_text())
    assert settings["classes"] == SMALL.classes
    assert settings["class_counts"] == {"000.breed_0": 32, "001.breed_1": 32}
    assert (settings["lr"], settings["batch_size"], settings["epochs"]) == (3e-3, 16, 3)
    predictions = read_run(tmp_path).inputs["predictions"]
    assert (predictions.split, len(predictions.labels)) == ("test", 16)
    assert predictions.key(9).startswith("test/001.breed_1/")
    assert predictions.probabilities.sum(axis=1) == pytest.approx(np.ones(16), abs=1e-2)


def test_root_head_and_tags_are_detected():
    class TwoParts(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    module = TwoParts()
    assert root_module(module) is module
    tags = parameter_tags(module, pretrained=True)
    assert tags["head.weight"] == {"head"}
    assert tags["backbone.bias"] == {"backbone", "pretrained", "bias"}
    assert root_module(TinyModel(network())) is not None
    assert head_prefix(network()) == "11"


def test_layer_called_twice_is_recorded_twice():
    relu = nn.ReLU(inplace=True)
    net = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu)
    recorder = TensorStats(net)
    recorder.activations.watch("train", describe_inputs=True)
    net(torch.randn(6, 4))
    recorder.activations.unwatch()
    [(collection, names, stats)], _ = recorder.fetch([])
    assert (collection, names) == ("activation_inputs", ["1", "1_1"])
    assert stats["mean"][0] != stats["mean"][1]
    activity = recorder.activations.take_activity("train")
    assert {item.num_samples for item in activity.values()} == {6}
