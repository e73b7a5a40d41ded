"""The disk cache: no requests in the second epoch, a size limit, and disk errors that do not end a training."""

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from torchvision.transforms.v2 import functional as F

from benchmarks.proxy import Proxy
from dogbreed import ImageDataModule
from dogbreed.data.decode import decode
from dogbreed.data.shrink import shrink
from dogbreed.data.transforms import EvalTransform
from dogbreed.errors import UserError
from dogbreed.input_spec import InputSpec
from dogbreed.storage import retry
from dogbreed.storage.disk_cache import DiskCache
from dogbreed.system.locks import file_lock
from tests.s3_server import S3Server

Folder = Callable[[Path, Mapping[str, int]], Path]
CONFIG = {"input_size": (3, 16, 16), "interpolation": "bilinear", "crop_pct": 0.9}
SPEC = InputSpec.from_data_config(CONFIG)
SETTINGS = {"batch_size": 8, "val_fraction": 0.0, "test_fraction": 0.0}


@pytest.fixture
def proxy(
    s3_server: S3Server, write_images: Folder, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    """A proxy before a bucket of this test with 60 training images."""
    name = request.node.name.replace("_", "-").partition("[")[0][:60]
    write_images(s3_server.root / name, {"train/a": 30, "train/b": 30})
    monkeypatch.setattr(retry, "MIN_HEDGE_S", 60.0)  # requests are counted, so hedging is off
    proxy = Proxy(s3_server.url)
    proxy.bucket, proxy.root = name, s3_server.root / name
    yield proxy
    proxy.close()


def module(proxy: Proxy, cache: Path | None, **options: Any) -> ImageDataModule:
    options = {"num_workers": 0, **SETTINGS, **options}
    cached = {"cache": str(cache), **options} if cache else options
    return ImageDataModule(f"s3://{proxy.bucket}", endpoint_url=proxy.url, input_spec=SPEC, **cached)


def epochs(data: ImageDataModule, count: int = 1) -> list[list[torch.Tensor]]:
    loader = data.train_dataloader()
    found = [[batch.images.clone() for batch in loader] for _ in range(count)]
    data.teardown("fit")
    return found


def same(one: list[list[torch.Tensor]], other: list[list[torch.Tensor]]) -> bool:
    pairs = [pair for epoch in zip(one, other, strict=True) for pair in zip(*epoch, strict=True)]
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


# Runs first: once this process has used obstore, workers are spawned, which takes seconds.
@pytest.mark.parametrize(("num_workers", "scaled"), [(2, False), (0, True)])
def test_second_epoch_sends_no_request(proxy: Proxy, tmp_path: Path, num_workers: int, scaled: bool) -> None:
    plain = epochs(ImageDataModule(str(proxy.root), input_spec=SPEC, num_workers=0, **SETTINGS), 2)
    options = {"num_workers": num_workers, "cache_scaled": scaled}
    for _ in ("the first training", "another one"):
        assert same(epochs(module(proxy, tmp_path / "c", **options), 2), plain)
        assert len(proxy.gets) == len(set(proxy.gets)) == 60


def test_changed_image_is_fetched_again(proxy: Proxy, tmp_path: Path) -> None:
    epochs(module(proxy, tmp_path / "c"))
    changed = proxy.root / "train/a/003.jpg"
    changed.write_bytes((proxy.root / "train/b/004.jpg").read_bytes())
    proxy.gets.clear()
    epochs(module(proxy, tmp_path / "c"))
    assert [path.rpartition("/")[2] for path in proxy.gets] == ["003.jpg"]


def test_change_after_listing_is_not_cached_under_old_etag(proxy: Proxy, tmp_path: Path) -> None:
    data = module(proxy, tmp_path / "c")
    data.setup("fit")
    image = proxy.root / "train/a/003.jpg"
    before = image.read_bytes()
    image.write_bytes(bytes([*before[:-20], *before[-10:], *before[-10:]]))  # same length, other content
    epochs(data)
    image.write_bytes(before)
    proxy.gets.clear()
    assert same(epochs(module(proxy, tmp_path / "c")), epochs(module(proxy, None)))
    assert sum(path.endswith("a/003.jpg") for path in proxy.gets) == 2


def test_damaged_files_are_fetched_again(proxy: Proxy, tmp_path: Path) -> None:
    expected = epochs(module(proxy, tmp_path / "c"))
    files = sorted((tmp_path / "c").glob("??/*"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-9])
    files[2].write_bytes(b"x" + files[2].read_bytes()[1:])
    proxy.gets.clear()
    assert same(epochs(module(proxy, tmp_path / "c")), expected)
    assert len(proxy.gets) == 3


def files_of(cache: DiskCache) -> dict[str, int]:
    return {"".join(path.parts[-2:]): path.stat().st_size for path in cache.folder.glob("[0-9a-f][0-9a-f]/*")}


def test_least_recently_used_is_deleted_first(tmp_path: Path) -> None:
    cache = DiskCache.open(tmp_path, "place", 10_000 / 1e9)
    names = [f"{number:032x}" for number in range(12)]
    for name in names[:9]:
        cache.put(name, b"x" * 1000)
        time.sleep(0.002)
    assert cache.get(names[0]) == b"x" * 1000
    cache.put(names[9], b"y" * 1000)
    kept = files_of(cache)
    assert names[0] in kept
    assert names[9] in kept
    assert names[1] not in kept
    assert sum(kept.values()) <= 10_000
    cache.put(names[10], b"z" * 20_000)
    assert names[10] not in files_of(cache)


def write_many(folder: Path, first: int) -> None:
    cache = DiskCache.open(folder, "place", 100_000 / 1e9)
    for number in range(first, first + 300):
        cache.put(f"{number:032x}", number.to_bytes(4, "big") * 300)
        earlier = max(number - 5, first)
        assert cache.get(f"{earlier:032x}") in (None, earlier.to_bytes(4, "big") * 300)
    os._exit(7 if cache.error else 0)


def test_several_processes_keep_the_limit_and_whole_files(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    # The second has the images of the first, the fourth dies in the middle.
    writers = [context.Process(target=write_many, args=(tmp_path, first)) for first in (0, 0, 1000, 2000)]
    for writer in writers:
        writer.start()
    cache, largest = DiskCache.open(tmp_path, "place", 1), 0
    while any(writer.is_alive() for writer in writers[:3]):
        with file_lock(cache.folder / "lock"):
            largest = max(largest, sum(files_of(cache).values()))
        if largest > 50_000:
            writers[3].kill()
    for writer in writers:
        writer.join()
    largest = max(largest, sum(files_of(cache).values()))  # where this process has not listed yet
    assert [writer.exitcode for writer in writers[:3]] == [0, 0, 0]
    assert 50_000 < largest <= 100_000
    whole = [cache.get(name) for name in files_of(cache) if not name.endswith(".new")]
    assert len(whole) > 50
    assert all(content and len(content) == 1200 for content in whole)


def test_full_disk_is_logged_once_and_training_continues(
    write_images: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device", str(path))

    root, cache = write_images(tmp_path / "data", {"train/a": 30, "train/b": 30}), tmp_path / "c"
    monkeypatch.setattr(Path, "write_bytes", full)
    data = ImageDataModule(str(root), cache=str(cache), input_spec=SPEC, num_workers=2, **SETTINGS)
    assert [sum(map(len, epoch)) for epoch in epochs(data, 2)] == [60, 60]
    said = [message for message in caplog.messages if "cache" in message]
    assert said == [
        f"the cache stores no further images, the training continues without: {cache}: No space left on device"
    ]
    assert not list(cache.glob("??/*"))
    assert not data.bad_images


def test_invalid_settings_are_rejected(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache, options, message in (
        (tmp_path / "file/below", {}, "cannot be written: Not a directory"),
        (tmp_path, {"cache_gb": 0}, "data.cache_gb=0: must be a number above 0"),
        (None, {"cache_scaled": True}, "type data.cache=PATH too"),
    ):
        with pytest.raises(UserError, match=message):
            module(proxy, cache, **options)
    with pytest.raises(UserError, match="whose images are generated"):
        ImageDataModule("demo://", cache=str(tmp_path))


def test_scaled_images_stay_close_to_the_original(shared: Path) -> None:
    """A large photograph cached with a short side of 512 px looks like the original."""
    transform, differences = EvalTransform(InputSpec()), []
    rng = random.Random(0)
    for path in sorted((shared / "photos").glob("*.JPEG"))[:8]:
        pixels = decode(path.read_bytes())
        large = F.resize(pixels, [1200], antialias=True)
        original = simplejpeg.encode_jpeg(np.ascontiguousarray(large.permute(1, 2, 0).numpy()), quality=92)
        small = shrink(original, 512)
        assert min(decode(small).shape[-2:]) == 512
        assert len(small) < len(original)
        assert shrink(small, 512) == small
        shown = [transform(decode(content), rng).float() for content in (original, small)]
        differences.append((shown[0] - shown[1]).abs().mean().item())
    print(f"mean difference {np.mean(differences):.2f} grey levels")
    assert np.mean(differences) < 1.5
    assert shrink(b"no image", 512) == b"no image"
