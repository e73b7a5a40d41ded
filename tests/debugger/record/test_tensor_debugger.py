from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.record.tensor_debugger import TensorDebugger
from tests.debugger.tiny import CONFIG, TinyData, TinyModel, network, train

SMALL = TinyData((32, 32), batch_size=16, val=8)


def run(folder: Path, config: dict | None = None, **settings) -> TinyModel:
    pl.seed_everything(1, verbose=False)
    model = TinyModel(network(2), **settings.pop("model", {}))
    train(folder, model, SMALL, settings.pop("epochs", 3), config, **settings)
    return model


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_debugger_does_not_change_losses_or_weights(tmp_path: Path, settings: dict):
    with_debugger, without = run(tmp_path, **settings), run(tmp_path, {}, **settings)
    assert with_debugger.losses == without.losses
    for a, b in zip(with_debugger.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)


def test_recorded_losses_are_those_of_optimizer_steps(tmp_path: Path):
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


def test_gradients_and_updates_equal_the_optimizers(tmp_path: Path):
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


def test_parameters_unfrozen_later_are_recorded_from_then(tmp_path: Path):
    class Unfreeze(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.net[0].weight.requires_grad = trainer.current_epoch > 0

    run(tmp_path, epochs=2, callbacks=[Unfreeze()], model={"optimizer": "SGD"})
    series = read_run(tmp_path).inputs["gradients"]
    column = series.stat("abs_mean")[:, series.names.index("0.weight")]
    assert np.isnan(column[:4]).all() and np.isfinite(column[4:]).all()


def test_second_fit_appends_and_new_run_clears_folder(tmp_path: Path):
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


def test_recorded_steps_follow_interval_and_first_steps(tmp_path: Path):
    tensors = {"enabled": True, "every_n_steps": 5, "first_steps": 2}
    run(tmp_path, {"tensors": tensors})
    assert read_run(tmp_path).inputs["gradients"].steps.tolist() == [0, 1, 5, 10]


def test_stop_on_ends_training_and_records_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
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


@pytest.mark.parametrize(("stop_on", "are_kept"), [([], False), (["ExplodingTensor"], True)])
def test_records_stay_in_memory_for_stop_on_only(stop_on: list[str], are_kept: bool, tmp_path: Path):
    debugger = TensorDebugger(tmp_path, stop_on=stop_on)
    run(tmp_path, {}, callbacks=[debugger], test=False)
    assert bool(debugger._records.rows) is are_kept
    assert len(read_run(tmp_path).inputs["gradients"].steps) == 10


def test_exception_removes_hooks_and_is_recorded(tmp_path: Path):
    class Failing(TinyModel):
        def training_step(self, batch, number):
            assert self.net[2]._forward_pre_hooks
            super().training_step(batch, number)
            raise RuntimeError("out of memory")

    model = Failing(network(2))
    with pytest.raises(RuntimeError, match="out of memory"):
        train(tmp_path, model, SMALL, callbacks=[TensorDebugger(tmp_path)], config={})
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert read_run(tmp_path).events[-1]["why"] == "RuntimeError: out of memory"
