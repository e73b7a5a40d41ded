"""Figures of images and misclassifications."""

import numpy as np
import pytest
import torch
from torch import nn

from dogbreed import ImageDataModule, find_mistakes, show_images, show_mistakes
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec

CONFIG = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SPEC = InputSpec.from_data_config(CONFIG)


class AlwaysFirst(nn.Module):
    """Predicts the first class for all images, with more confidence for brighter ones."""

    device = torch.device("cpu")

    def forward(self, images):
        first = images.mean(dim=(1, 2, 3)) + 5
        return torch.stack([first, torch.zeros_like(first)], dim=1)


@pytest.fixture
def data():
    return ImageDataModule("demo://?classes=2&train=3&valid=2&test=3&size=32", input_spec=SPEC, batch_size=2)


def test_mistakes_are_complete_and_worst_first(data):
    model = AlwaysFirst().train()
    found = find_mistakes(model, data)
    assert sorted(m.key for m in found) == [key for key in data.keys("test") if "/002." in key]
    assert {(m.actual, m.predicted) for m in found} == {(data.classes[1], data.classes[0])}
    losses = [m.loss for m in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(-np.log1p(-found[0].confidence), rel=1e-3)
    assert model.training  # unchanged


def test_figures_have_a_notebook_representation(data):
    for figure in (show_images(data, "train", 5), show_mistakes(AlwaysFirst(), data)):
        assert figure._repr_png_().startswith(b"\x89PNG")
    titles = [axis.get_title() for axis in show_mistakes(AlwaysFirst(), data, count=2).axes]
    assert titles[0].startswith("Brindle mastiff\nnot Spotted terrier (") and titles[2] == ""


def test_unknown_split_is_a_user_error(data):
    with pytest.raises(UserError, match="no split 'tset'; did you mean test"):
        show_images(data, "tset")


def test_mistakes_use_the_format_of_the_model(monkeypatch):
    """A data module without format must not fall back to ImageNet's."""
    data, seen = ImageDataModule("demo://?classes=2&train=3&valid=2&test=3&size=32"), []
    model = AlwaysFirst()
    model.input_spec = SPEC
    monkeypatch.setattr(AlwaysFirst, "forward", lambda self, images: seen.append(images) or torch.zeros(len(images), 2))
    find_mistakes(model, data)
    pixels = torch.cat([batch.images for batch in data.loader("test", input_spec=SPEC)]).float()
    torch.testing.assert_close(torch.cat(seen), pixels / 127.5 - 1)
