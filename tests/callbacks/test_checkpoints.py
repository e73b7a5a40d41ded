"""Checkpoints: the best weights as validated, and a state that resumes exactly."""

import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from dogbreed.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from dogbreed.callbacks.metric_printer import MetricPrinter
from dogbreed.callbacks.signals import StopOnSignal
from dogbreed.errors import UserError


class Counter(pl.LightningModule):
    """A model whose weight counts its steps and whose score in each epoch is taken from `scores`."""

    def __init__(self, scores):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.scores = scores

    def training_step(self, batch, batch_idx):
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(model, *callbacks, epochs=None, num_batches=1, resume=None, **settings):
    trainer = pl.Trainer(
        max_epochs=epochs or len(model.scores), callbacks=list(callbacks), plugins=[AtomicCheckpointIO()], logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **settings,
    )  # fmt: skip
    trainer.fit(model, DataLoader(torch.zeros(num_batches, 1)), DataLoader(torch.zeros(1, 1)), ckpt_path=resume)
    return trainer


def steps_of(path):
    return int(torch.load(path, weights_only=True)["state_dict"]["weight"])


@pytest.mark.parametrize(
    ("goal", "scores", "expected"),
    [
        ("maximize", [0.1, 0.3, 0.2, 0.3], 2),
        ("minimize", [0.3, 0.1, 0.1, 0.2], 2),
        ("maximize", [math.nan, 0.1, math.nan], 2),
    ],
)
def test_best_is_the_first_epoch_with_the_best_score(tmp_path, goal, scores, expected):
    best = BestCheckpoint(tmp_path, "val/score", goal)
    fit(Counter(scores), best)
    assert best.path == str(tmp_path / "best.ckpt") and best.score == pytest.approx(scores[expected - 1])
    assert steps_of(best.path) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


def test_best_compares_only_validated_epochs(tmp_path):
    best = BestCheckpoint(tmp_path, "val/score", "maximize")
    fit(Counter([0.9, 0.1, 0.8, 0.2]), best, check_val_every_n_epoch=2)
    assert best.score == pytest.approx(0.2) and steps_of(best.path) == 4


def test_best_moves_with_a_resumed_run(tmp_path):
    last = LastCheckpoint(tmp_path / "last.ckpt", 0)
    fit(Counter([0.9, 0.1, 0.2]), BestCheckpoint(tmp_path / "a", "val/score", "maximize"), last, epochs=2)
    best = BestCheckpoint(tmp_path / "b", "val/score", "maximize")
    fit(Counter([0.9, 0.1, 0.2]), best, LastCheckpoint(tmp_path / "b.ckpt", 0), resume=last.path)
    assert best.path == str(tmp_path / "b" / "best.ckpt") and steps_of(best.path) == 1 and best.since == 0
    (tmp_path / "a" / "best.ckpt").unlink()
    best = BestCheckpoint(tmp_path / "c", "val/score", "maximize")
    fit(Counter([0.9, 0.1, 0.2]), best, LastCheckpoint(tmp_path / "c.ckpt", 0), resume=last.path)
    assert best.since == 2 and best.score == pytest.approx(0.2) and steps_of(best.path) == 3


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == self.step:
            raise KeyError("killed")


@pytest.mark.parametrize("step", [2, 4, 5])
def test_resume_after_any_step_has_every_validation(tmp_path, step):
    """The last step of an epoch is saved with its validation, so that no epoch is lost."""
    scores = [0.9, 0.1, 0.2]
    callbacks = lambda name: (  # noqa: E731
        MetricPrinter(), BestCheckpoint(tmp_path / name, "val/score", "maximize"),
        LastCheckpoint(tmp_path / f"{name}.ckpt", 0),
    )  # fmt: skip
    straight = callbacks("straight")
    fit(Counter(scores), *straight, num_batches=2)
    with pytest.raises(KeyError):
        fit(Counter(scores), *callbacks("begun"), StopAt(step), num_batches=2)
    resumed = callbacks("begun")
    fit(Counter(scores), *resumed, num_batches=2, resume=tmp_path / "begun.ckpt")
    assert resumed[0].history == straight[0].history
    assert (resumed[1].score, steps_of(resumed[1].path)) == (straight[1].score, 2)


def test_checkpoint_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"checkpoint .* cannot be written"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "file" / "x.ckpt")


def test_processes_agree_only_every_tenth_step(tmp_path):
    """An agreement of several processes synchronises their devices, so it must not happen at every step."""
    asked = []
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: asked.append(1))
    trainer = SimpleNamespace(strategy=strategy, world_size=2, global_step=0, is_last_batch=False, should_stop=False)
    last = LastCheckpoint(tmp_path / "last.ckpt", 0)
    for trainer.global_step in range(1, 101):
        for callback in (last, StopOnSignal(last)):
            callback.on_train_batch_end(trainer)
    assert 0 < len(asked) <= 20


def test_processes_draw_other_numbers_and_resume_their_own(tmp_path):
    def numbers_of(rank, state=None):
        torch.manual_seed(3)
        last = LastCheckpoint(tmp_path / "last.ckpt", 0)
        last.load_state_dict(state or {})
        last.on_train_start(SimpleNamespace(global_step=0, global_rank=rank), None)
        drawn = torch.rand(3).tolist()
        return drawn, {"cpu": torch.get_rng_state(), "cuda": None}

    torch.manual_seed(3)
    assert torch.rand(3).tolist() == numbers_of(0)[0]
    drawn, states = zip(*(numbers_of(rank) for rank in range(3)), strict=True)
    assert len({tuple(numbers) for numbers in drawn}) == 3
    saved = {**states[0], "processes": list(states)}
    for rank in range(3):
        torch.set_rng_state(states[rank]["cpu"])
        assert torch.rand(3).tolist() == numbers_of(rank, saved)[0]


def test_stop_on_signal_works_outside_the_main_thread(tmp_path):
    stop = StopOnSignal(last := LastCheckpoint(tmp_path / "last.ckpt", 0))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(fit, Counter([0.1]), last, stop).result()
    assert stop.received is None


@pytest.mark.parametrize("every_s", [0, 1000])
def test_signal_in_mid_epoch_loses_no_step_on_resume(tmp_path, every_s):
    def callbacks(name):
        last = LastCheckpoint(tmp_path / f"{name}.ckpt", every_s)
        return StopOnSignal(last), last

    class Signal(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    fit(Counter([0.1, 0.2, 0.3]), *callbacks("a"), Signal(), num_batches=4)
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert state["global_step"] == 6
    resumed = fit(Counter([0.1, 0.2, 0.3]), *callbacks("b"), num_batches=4, resume=tmp_path / "a.ckpt")
    assert resumed.global_step == 12 and steps_of(tmp_path / "b.ckpt") == 12
