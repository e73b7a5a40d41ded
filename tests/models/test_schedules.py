"""Schedules: pure functions of the step, and the scheduler that a trainer steps."""

import itertools
import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from dogbreed import ImageClassifier
from dogbreed.models.schedules import constant, cosine, step


def test_cosine_rises_then_falls_to_the_floor():
    rates = [cosine(i, 100, 10, warmup=0.1, floor=0.1) for i in range(101)]
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 10
    assert all(b > a for a, b in itertools.pairwise(rates[:11]))
    assert all(b < a for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1)
    assert not any(math.isnan(rate) for rate in rates)


def test_step_drops_every_epochs_and_constant_does_not():
    assert [step(i, 60, 10, every_epochs=2, factor=0.5) for i in (0, 19, 20, 59)] == [1, 1, 0.5, 0.25]
    assert constant(5, 10, 2) == 1


@pytest.mark.parametrize("bound", [{"max_epochs": 2}, {"max_epochs": 9, "max_steps": 16}, {"max_steps": 16}])
def test_step_counts_real_epochs_with_any_bound(bound):
    model = ImageClassifier(
        "test_resnet", ["a", "b"], weights="random", lr=1.0, optimizer={"_target_": "torch.optim.SGD"},
        scheduler={"_target_": "dogbreed.models.schedules.step", "every_epochs": 1, "factor": 0.5},
    )  # fmt: skip
    data = DataLoader([(torch.zeros(3, 32, 32), 0)] * 16, batch_size=2)  # 8 batches per epoch
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **bound
    )
    trainer.fit(model, data)
    assert trainer.global_step == 16
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25)
