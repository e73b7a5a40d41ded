from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dogbreed.debugger.read.reader import read_run
from tests.debugger.tiny import TinyData, TinyModel, network, train

SMALL = TinyData((32, 32), batch_size=16, val=8)
CONFIG = {"predictions": {"enabled": True}}


def test_predictions_of_test_are_recorded_by_image(tmp_path: Path):
    train(tmp_path, TinyModel(network(2)), SMALL, 1, CONFIG)
    predictions = read_run(tmp_path).inputs["predictions"]
    assert (predictions.split, len(predictions.labels)) == ("test", 16)
    assert predictions.key(9).startswith("test/001.breed_1/")
    assert predictions.probabilities.sum(axis=1) == pytest.approx(np.ones(16), abs=1e-2)


def test_mistakes_in_test_get_thumbnails(tmp_path: Path):
    model = TinyModel(network(2))
    nn.init.zeros_(model.net[-1].weight)
    model.net[-1].bias.data = torch.tensor([9.0, 0.0])  # class 0 for all images
    train(tmp_path, model, SMALL, 0, CONFIG)
    names = sorted(path.name for path in (tmp_path / "debug" / "thumbs").iterdir())
    assert names == sorted(f"test-{index}.jpg" for index in range(8, 16))


class OtherLabels(TinyModel):
    """Trains with labels of any shape."""

    def _loss(self, batch, stage: str) -> torch.Tensor:
        output = self.net(batch[0])
        loss = nn.functional.mse_loss(output, batch[1].float().reshape(len(output), -1).expand_as(output))
        self.log(f"{stage}/loss", loss)
        return loss


@pytest.mark.parametrize(
    "labels",
    [
        torch.randint(0, 2, (16, 4)),  # multi-label
        torch.rand(16, 4),  # soft labels
        torch.rand(16),  # regression
    ],
)
def test_labels_that_are_no_classes_are_ignored(labels: torch.Tensor, tmp_path: Path, caplog):
    loader = DataLoader(TensorDataset(torch.randn(16, 3, 16, 16), labels), 4)  # as many images as classes
    model = OtherLabels(network(4))
    trainer = train(tmp_path, model, SMALL, 0, CONFIG, test=False)
    trainer.test(model, loader, verbose=False)
    assert caplog.text.count("predictions are not recorded: labels must be class numbers") == 1
    assert not (tmp_path / "debug").exists()


def test_forward_hook_is_removed_after_exception(tmp_path: Path):
    class Failing(TinyModel):
        def test_step(self, batch, number):
            raise RuntimeError("out of memory")

    model = Failing(network(2))
    with pytest.raises(RuntimeError, match="out of memory"):
        train(tmp_path, model, SMALL, 1, CONFIG)
    assert not model.net._forward_hooks
