import io
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

import dogbreed.data.decode as module
from dogbreed.data.decode import decode, read_size
from dogbreed.input_spec import InputSpec
from dogbreed.publishing.checks import check_image
from dogbreed.serving.images import decode_image
from dogbreed.serving.request import RequestError
from dogbreed.storage.base import ImageError


def image(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 / width, y * 255 / height, (x + y) % 64 * 3], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encode(source: Image.Image, format: str, **options: object) -> bytes:
    target = io.BytesIO()
    source.save(target, format, **options)
    return target.getvalue()


def seen(data: bytes) -> np.ndarray:
    pixels = decode(data)
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3
    return pixels.permute(1, 2, 0).numpy().astype(int)


def assert_close(data: bytes, expected: Image.Image, levels: float = 0.5) -> None:
    wanted = np.asarray(expected).astype(int)
    assert seen(data).shape == wanted.shape
    assert np.abs(seen(data) - wanted).mean() <= levels


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_equal_the_original(format: str) -> None:
    source = image() if format != "GIF" else image().quantize(16)
    assert_close(encode(source, format), source.convert("RGB"), levels=0)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpeg_equals_pillow(options: dict[str, object]) -> None:
    data = encode(image(), "JPEG", **options)
    assert_close(data, Image.open(io.BytesIO(data)))


def test_webp_equals_pillow() -> None:
    assert_close(encode(image(), "WEBP", lossless=True), image(), levels=0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image(), format, exif=exif)
    assert_close(data, ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert seen(data).shape[:2] == ((40, 60) if orientation < 5 else (60, 40))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_grey_image_becomes_rgb(format: str) -> None:
    data = encode(image().convert("L"), format)
    assert_close(data, image().convert("L").convert("RGB"), levels=2)


def test_cmyk_jpeg_equals_pillow() -> None:
    data = encode(image().convert("CMYK"), "JPEG", quality=95)
    assert_close(data, image(), levels=3)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(format: str) -> None:
    levels = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    pixels = seen(encode(Image.fromarray(levels), format))
    assert np.abs(pixels - (levels >> 8)[..., None]).max() <= 1


def test_transparent_parts_become_white() -> None:
    source = image().convert("RGBA")
    source.paste((255, 0, 0, 0), (0, 0, 30, 40))
    pixels = seen(encode(source, "PNG"))
    assert (pixels[:, :30] == 255).all()
    assert (pixels[:, 30:] == np.asarray(image())[:, 30:]).all()


def test_transparent_palette_becomes_white() -> None:
    source = Image.new("P", (8, 8), 0)
    source.putpalette([255, 0, 0, 0, 255, 0])
    source.paste(1, (4, 0, 8, 8))
    pixels = seen(encode(source, "PNG", transparency=0))
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == [0, 255, 0]).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_truncated_at_any_length_is_rejected(progressive: bool) -> None:
    data = encode(image(), "JPEG", progressive=progressive)
    for length in range(len(data) - (0 if progressive else 2)):
        with pytest.raises(ImageError):
            decode(data[:length])


def test_truncated_jpeg_with_end_marker_is_rejected() -> None:
    data = encode(image(), "JPEG")
    with pytest.raises(ImageError, match="damaged JPEG"):
        decode(data[: len(data) * 3 // 4] + b"\xff\xd9")


def test_stray_bytes_in_a_valid_jpeg_are_accepted() -> None:
    data = encode(image(), "JPEG")
    expected = Image.open(io.BytesIO(data))
    assert_close(data[:-2] + bytes(40) + data[-2:], expected)
    assert_close(data + b"left by a camera", expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not a readable image, it begins with b'hello, this "),
        (b"\xff\xd8\xff", "JPEG|readable|damaged"),
        (encode(image(), "PNG")[:-40], "truncated"),
    ],
)
def test_unreadable_image_error_names_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damaged_files_raise_only_image_error(format: str) -> None:
    rng = random.Random(format)
    data = encode(image(), format)
    for _ in range(150):
        damaged = bytearray(data[: rng.randint(0, len(data))] if rng.random() < 0.3 else data)
        for _ in range(rng.choice([1, 5, 20])):
            if damaged:
                damaged[rng.randrange(min(len(damaged), rng.choice([60, 10_000])))] = rng.randrange(256)
        try:
            decode(bytes(damaged))
        except ImageError as error:
            assert str(error)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(505, 5), (5, 505)])
def test_extreme_aspect_ratio_is_rejected(format: str, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"{size[0]} x {size[1]} pixels: one side at most 100 times the other"):
        decode(encode(Image.new("RGB", size), format))
    assert decode(encode(Image.new("RGB", (500, 5)), format)).shape == (3, 5, 500)


def test_huge_image_is_rejected() -> None:
    header = bytearray(encode(Image.new("RGB", (8, 8)), "JPEG"))
    frame = header.index(b"\xff\xc0")
    header[frame + 5 : frame + 9] = b"\xff\x00\xff\x00"
    with pytest.raises(ImageError):
        decode(bytes(header))


def test_real_photographs_equal_pillow(shared: Path, real: Callable[[int], list[Path]]) -> None:
    for path in real(20):
        assert_close(path.read_bytes(), Image.open(path).convert("RGB"))


@pytest.fixture
def real(shared: Path) -> Callable[[int], list[Path]]:
    return lambda count: [
        *sorted((shared / "photos").glob("*.JPEG"))[:count],
        *sorted((shared / "data/valid").glob("*/*.jpg"))[:count],
    ]


def test_pillow_still_rejects_truncated_files() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_eps_never_reaches_ghostscript(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start gs for it, whatever the name of the file."""
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    eps = encode(image(), "EPS")
    for read in (decode, read_size):
        with pytest.raises(ImageError, match="not a readable image"):
            read(eps)
    with pytest.raises(RequestError, match="not a readable image"):
        decode_image(eps, InputSpec())
    assert "not an image" in check_image(f"train/pug/a.{suffix}", eps, {}).problem


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_garbage_exif_is_ignored(format: str) -> None:
    data = encode(image(), format, exif=b"Exif\x00\x00garbage")
    assert_close(data, Image.open(io.BytesIO(data)).convert("RGB"), levels=2)


def test_png_with_large_metadata_is_decoded() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * (3 << 20), zip=True)
    data = encode(image(), "PNG", pnginfo=text, icc_profile=bytes(2 << 20))
    assert (seen(data) == np.asarray(image())).all()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_float_image_from_0_to_1_keeps_its_range(scale: float) -> None:
    levels = np.linspace(0, scale, 64 * 48, dtype=np.float32).reshape(48, 64)
    pixels = seen(encode(Image.fromarray(levels), "TIFF"))
    assert np.abs(pixels[..., 0] - 255 * levels).max() <= 1


@pytest.mark.parametrize("low, high, mode", [(0, 65535, np.float32), (-1, 1, np.float32), (0, 1 << 20, np.int32)])
def test_grey_levels_out_of_range_are_rejected(low: int, high: int, mode: type) -> None:
    levels = np.linspace(low, high, 64 * 48).reshape(48, 64).astype(mode)
    with pytest.raises(ImageError, match=r"grey levels from .* to .*: must be from 0 to"):
        decode(encode(Image.fromarray(levels), "TIFF"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "HEIC images are not supported: convert them to JPEG"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(20), "AVIF images are not supported"),
        (b"\x1f\x8b\x08" + bytes(20), "compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1", "run git lfs pull"),
    ],
)
def test_known_other_format_is_named(data: bytes, reason: str) -> None:
    for read in (decode, read_size):
        with pytest.raises(ImageError, match=reason):
            read(data)


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(image(600, 400).convert("RGBA"), "PNG")
    expected = decode(data, 8)
    monkeypatch.setattr(module, "_LARGE_PIXELS", 1000)
    assert (decode(data, 8).int() - expected.int()).abs().max() <= 1
    module._large_image_lock.acquire()
    thread = threading.Thread(target=decode, args=(data, 8))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    module._large_image_lock.release()
    thread.join()


@pytest.mark.parametrize("junk", [b"", b"HTTP/1.1 200 OK\r\n\r\n", bytes(128)])
@pytest.mark.parametrize("lost", [0, 2])
def test_jpeg_that_publishing_repairs_is_decoded(junk: bytes, lost: int) -> None:
    data = encode(image(), "JPEG")
    damaged = junk + data[: len(data) - lost]
    assert not check_image("a/1.jpg", damaged, {}).problem
    assert read_size(damaged) == (40, 60)
    assert torch.equal(decode(damaged), decode(data))
