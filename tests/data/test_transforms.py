import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms as reference
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resized_crop

from dogbreed.data.decode import ImageSize, decode, read_size
from dogbreed.data.transforms import EvalTransform, ThumbnailTransform, TrainTransform, random_crop
from dogbreed.input_spec import InputSpec

CONFIG = {
    "input_size": (3, 96, 96),
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.2, 0.1),
    "crop_pct": 0.9,
}


def noise(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_input_spec_from_data_config() -> None:
    found = InputSpec.from_data_config(CONFIG)
    assert (found.height, found.width, found.crop_pct) == (96, 96, 0.9)
    assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert found.interpolation is InterpolationMode.BICUBIC
    assert found.resized(32).height == 32
    bare = InputSpec.from_data_config({"input_size": (3, 64, 48)})
    assert (bare.height, bare.width, bare.mean) == (64, 48, (0.485, 0.456, 0.406))


def test_every_timm_config_is_supported() -> None:
    import timm

    for name in timm.list_pretrained()[::40]:
        config = timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict())
        found = InputSpec.from_data_config(config)
        assert len(found.mean) == len(found.std) == 3
        out = EvalTransform(found)(noise(40, 60), random.Random(0))
        assert out.shape == (3, *config["input_size"][-2:])


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (50, 70), (96, 96), (7, 500), (1, 1)])
def test_transform_returns_shape_and_dtype(shape: tuple[int, int]) -> None:
    target = InputSpec.from_data_config(CONFIG)
    for transform in (EvalTransform(target), TrainTransform(target)):
        out = transform(noise(*shape), random.Random(0))
        assert out.shape == (3, 96, 96)
        assert out.dtype == torch.uint8


def test_squash_keeps_the_whole_image() -> None:
    target = InputSpec.from_data_config({**CONFIG, "crop_pct": 1.0, "crop_mode": "squash"})
    pixels = torch.zeros((3, 100, 300), dtype=torch.uint8)
    pixels[:, :, :50] = 255
    out = EvalTransform(target)(pixels, random.Random(0))
    assert 0.14 < (out > 127).float().mean() < 0.19


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photographs_are_within_a_tenth_grey_level_of_pillow(shared: Path, interpolation: str) -> None:
    target = InputSpec.from_data_config({**CONFIG, "interpolation": interpolation})
    mode = target.interpolation
    paths = [*sorted((shared / "photos").glob("*.JPEG"))[:20], *sorted((shared / "data/valid").glob("*/*.jpg"))[:20]]
    evaluation, training = [], []
    for path in paths:
        pixels, pillow = decode(path.read_bytes()), Image.open(path).convert("RGB")
        expected = reference.CenterCrop(96)(reference.Resize(int(96 / 0.9), mode)(pillow))
        evaluation.append(distance(EvalTransform(target)(pixels, random.Random(0)), expected))
        rng = random.Random(path.name)
        crop = resized_crop(pillow, *random_crop(pillow.height, pillow.width, rng), [96, 96], mode)
        expected = ImageOps.mirror(crop) if rng.random() < 0.5 else crop
        training.append(distance(TrainTransform(target)(pixels, random.Random(path.name)), expected))
    assert np.mean(evaluation) < 0.1
    assert np.mean(training) < 0.1


def distance(pixels: torch.Tensor, expected: Image.Image) -> float:
    return float(np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int)).mean())


def test_training_crop_depends_only_on_its_generator() -> None:
    transform = TrainTransform(InputSpec.from_data_config(CONFIG))
    pixels = noise(100, 120)
    torch.manual_seed(1)
    first = transform(pixels, random.Random("a"))
    torch.manual_seed(2)
    random.seed(2)
    assert torch.equal(first, transform(pixels, random.Random("a")))
    assert not torch.equal(first, transform(pixels, random.Random("b")))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 1000))
def test_crop_is_inside_the_image(height: int, width: int, seed: int) -> None:
    top, left, crop_height, crop_width = random_crop(height, width, random.Random(seed))
    assert 0 <= top <= top + crop_height <= height
    assert 0 <= left <= left + crop_width <= width
    assert crop_height > 0
    assert crop_width > 0


def test_crops_match_torchvision_distribution() -> None:
    """Same distribution of area and shape as RandomResizedCrop."""
    rng = random.Random(0)
    ours = np.array([random_crop(375, 500, rng)[2:] for _ in range(3000)])
    torch.manual_seed(0)
    crop = reference.RandomResizedCrop.get_params
    theirs = np.array([crop(torch.empty(3, 375, 500), [0.08, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(3000)])
    quantiles = [0.1, 0.25, 0.5, 0.75, 0.9]
    for measure in (lambda box: box.prod(1), lambda box: box[:, 0] / box[:, 1]):
        np.testing.assert_allclose(np.quantile(measure(ours), quantiles), np.quantile(measure(theirs), quantiles), 0.12)


@pytest.mark.parametrize("transform", [TrainTransform, EvalTransform, ThumbnailTransform])
def test_draft_decoded_photographs_stay_close_to_pillow(shared: Path, transform: type) -> None:
    """Pillow decodes the whole image and resizes the same crop."""
    spec = InputSpec(96, 96, interpolation=InterpolationMode.BICUBIC)
    differences = {}
    for path in sorted((shared / "photos").glob("*.JPEG")):
        crop = transform(spec).crop(read_size(path.read_bytes()), random.Random(path.name))
        pixels = decode(path.read_bytes(), crop.scale)
        assert pixels.shape[1] == -(-Image.open(path).height // crop.scale)
        out = transform(spec).apply(pixels, crop)
        if crop.scale > 1:
            with Image.open(path) as photograph:
                part = photograph.convert("RGB").crop(
                    (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
                )
            part = part.resize((crop.out_width, crop.out_height), Image.Resampling.BICUBIC)
            part = ImageOps.mirror(part) if crop.mirrored else part
            wanted = center_crop(torch.from_numpy(np.array(part)).permute(2, 0, 1), [96, 96])
            differences[path.name] = float((out.float() - wanted.float()).abs().mean())
    print(f"{len(differences)} images, mean difference {np.mean(list(differences.values())):.2f} grey levels")
    assert len(differences) > 4
    assert np.mean(list(differences.values())) < 1.5


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(0, 99))
def test_crop_of_scaled_image_is_inside_and_not_larger(height: int, width: int, seed: int) -> None:
    for transform in (TrainTransform(InputSpec()), EvalTransform(InputSpec())):
        crop = transform.crop(ImageSize(height, width), random.Random(seed))
        assert 0 <= crop.top < crop.top + crop.height <= height
        assert 0 <= crop.left < crop.left + crop.width <= width
        if crop.scale > 1:
            assert crop.height // crop.scale >= crop.out_height
            assert crop.width // crop.scale >= crop.out_width
