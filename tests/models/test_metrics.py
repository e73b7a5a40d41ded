"""What is measured of an epoch is what counting by hand gives, over batches of any size."""

import pytest
import torch

from dogbreed.models.metrics import Metrics

SIZES = (5, 3, 1)


def batches():
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        yield torch.rand((), generator=generator), torch.randn(size, 4, generator=generator), torch.arange(size) % 4


@pytest.mark.parametrize("stage", ["train", "val"])
def test_an_epoch_is_counted_by_image_and_the_next_begins_anew(stage):
    metrics = Metrics(num_classes=4)
    for _ in range(2):
        for batch in batches():
            metrics.update(stage, *batch)
        found = metrics.compute(stage)
        loss = sum(loss.item() * size for size, (loss, *_) in zip(SIZES, batches(), strict=True)) / sum(SIZES)
        right = sum((logits.argmax(dim=1) == labels).sum().item() for _, logits, labels in batches())
        assert found[f"{stage}/loss"].item() == pytest.approx(loss)
        assert found[f"{stage}/accuracy"].item() == pytest.approx(right / sum(SIZES))


def test_an_epoch_without_images_has_no_numbers_but_no_error_either():
    assert set(Metrics(num_classes=2).compute("train")) == {"train/loss", "train/accuracy"}


@pytest.mark.parametrize("strict", [True, False])
def test_counting_leaves_the_wish_for_equal_results_as_it_was(strict):
    torch.use_deterministic_algorithms(strict, warn_only=True)
    try:
        Metrics(num_classes=4).update("test", *next(batches()))
        assert torch.are_deterministic_algorithms_enabled() == strict
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
