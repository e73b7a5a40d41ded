"""The best weights: those that were validated, in their file whenever something else relies on it."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from dogbreed.callbacks.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint


class Counting(pl.LightningModule):
    """Its one weight is the number of its steps, and its score what `scores` has for each epoch."""

    def __init__(self, scores, fails_at=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.scores, self.fails_at = scores, fails_at

    def training_step(self, batch, batch_idx):
        if self.current_epoch == self.fails_at:
            raise OSError("an image is gone")
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(folder, model, *, every_s, callbacks=()):
    best = BestCheckpoint(str(folder), "score", "maximize", every_s=every_s)
    trainer = pl.Trainer(
        max_epochs=len(model.scores), callbacks=[best, *callbacks], plugins=[AtomicCheckpointIO()], logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    images = DataLoader(torch.zeros(1, 1))
    trainer.fit(model, images, images)
    return best


def steps_of(path):
    return int(torch.load(path, weights_only=True)["state_dict"]["weight"])


class Seen(pl.Callback):
    """What the file holds when each epoch begins."""

    def __init__(self, file):
        self.file, self.steps = file, []

    def on_train_epoch_start(self, trainer, pl_module):
        self.steps.append(steps_of(self.file) if self.file.exists() else None)


@pytest.mark.parametrize(("every_s", "seen"), [(0.0, [None, 1, 2, 2]), (3600.0, [None] * 4)])
def test_the_best_epoch_is_in_the_file_at_once_or_at_the_end(tmp_path, every_s, seen):
    file = Seen(tmp_path / "best.ckpt")
    best = fit(tmp_path, Counting([0.1, 0.3, 0.2, 0.25]), every_s=every_s, callbacks=[file])
    assert file.steps == seen
    assert best.best_model_path == str(file.file) and best.best_model_score == pytest.approx(0.3)
    assert steps_of(file.file) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


def test_what_waits_is_written_when_the_training_fails(tmp_path):
    with pytest.raises(OSError, match="gone"):
        fit(tmp_path, Counting([0.1, 0.2, 0.3], fails_at=2), every_s=3600)
    assert steps_of(tmp_path / "best.ckpt") == 2


def test_what_waits_is_written_before_a_checkpoint_that_speaks_of_it(tmp_path):
    file = Seen(tmp_path / "best.ckpt")
    last = LastCheckpoint(tmp_path / "last.ckpt", every_s=0)
    fit(tmp_path, Counting([0.1, 0.2, 0.15]), every_s=3600, callbacks=[last, file])
    assert file.steps == [None, 1, 2]
