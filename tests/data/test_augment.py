"""RandAugment depends only on seed, epoch and position of an image, and uses no global random state."""

import random
from types import SimpleNamespace

import pytest
import torch

from dogbreed import ImageDataModule
from dogbreed.data.augment import RandAugmentTransform, augment_batch
from dogbreed.data.decode import ImageSize
from dogbreed.data.transforms import TrainTransform
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec

DEMO = "demo://?classes=2&train=12&valid=2&test=2&size=32"


def images(num_workers: int, **settings: object) -> dict[int, torch.Tensor]:
    data = ImageDataModule(DEMO, batch_size=5, num_workers=num_workers, input_spec=InputSpec(32, 32), **settings)
    loader = data.train_dataloader()
    found = {int(index): image for batch in loader for index, image in zip(batch.indices, batch.images, strict=True)}
    loader.close()
    return found


def test_augment_is_the_same_for_any_number_of_workers() -> None:
    torch.manual_seed(5)
    here, there, plain = images(0, randaugment=9), images(2, randaugment=9), images(0)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(5)))
    assert here.keys() == there.keys() and all(torch.equal(here[index], there[index]) for index in here)
    changed = [index for index in here if not torch.equal(here[index], plain[index])]
    assert len(changed) > len(here) / 2


def test_augment_keeps_the_crop_and_scales_with_magnitude() -> None:
    target = InputSpec(32, 32)
    pixels = torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    distances = []
    for magnitude in (1, 30):
        transform = RandAugmentTransform(target, magnitude=magnitude)
        plain_crop = TrainTransform(target).crop(ImageSize(50, 40), random.Random(3))
        assert transform.crop(ImageSize(50, 40), random.Random(3))[:8] == plain_crop[:8]
        pairs = [(transform, random.Random(seed)) for seed in range(20)]
        changed = torch.stack([change(pixels, chance) for change, chance in pairs]).float()
        plain = torch.stack([TrainTransform(target)(pixels, random.Random(seed)) for seed in range(20)]).float()
        assert changed.shape == (20, 3, 32, 32)
        distances.append((changed - plain).abs().mean().item())
    assert distances[0] < distances[1]


def test_batch_augment_only_in_training_and_same_in_a_rerun() -> None:
    data = ImageDataModule(DEMO, batch_size=20, randaugment=9, randaugment_on="device", input_spec=InputSpec(32, 32))
    (batch, *_) = data.train_dataloader()

    def given(training: bool, epoch: int) -> torch.Tensor:
        plugin = SimpleNamespace(convert_input=lambda images: images)
        data.trainer = SimpleNamespace(training=training, current_epoch=epoch, precision_plugin=plugin)
        return data.on_after_batch_transfer(batch, 0).images.clone()

    plain, changed = given(False, 0), given(True, 0)
    assert plain.shape == changed.shape and torch.equal(plain, data.normalise(batch.images))
    assert torch.equal(changed, given(True, 0))
    assert not torch.equal(changed, given(True, 1))
    alone = [
        augment_batch(batch.images[:8], torch.tensor([0, *rest]), data.input_spec, 9, "7")
        for rest in ([1] * 7, [2] * 7)
    ]
    assert not torch.equal(*alone)  # the first image of a group, which may be repeated, does not decide alone
    moved = (changed - plain).abs().sum(dim=(1, 2, 3)) > 0
    assert moved.any() and all(len(set(some.tolist())) == 1 for some in moved.split(8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"randaugment": 31}, "from 0 to 30"), ({"randaugment": 9, "augment": False}, "needs data.augment=true")],
)
def test_augment_unsupported_settings_are_rejected(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDataModule(DEMO, **settings)
