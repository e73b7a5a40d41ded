"""Reads one epoch with one peer, in a separate process that benchmarks.streaming starts.

Every peer yields normalised float32 (B, 3, 224, 224) in the main process, with the
random crops of training (MODE train) or resized and cut in the middle (MODE eval). A name that ends in `+decode` reads
like the peer, but decodes and resizes like dogbreed.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.data.transforms import EvalTransform, TrainTransform, load_image
from dogbreed.input_spec import InputSpec

BATCH_SIZE = 32
_LEAST_BATCHES = 6
"""More than the loader prefetches."""

FORMAT = InputSpec()
_BICUBIC = transforms.InterpolationMode.BICUBIC
_LAST = [transforms.ToTensor(), transforms.Normalize(FORMAT.mean, FORMAT.std)]
_CROPS = {
    "train": [transforms.RandomResizedCrop(224, interpolation=_BICUBIC), transforms.RandomHorizontalFlip()],
    "eval": [transforms.Resize(256, interpolation=_BICUBIC), transforms.CenterCrop(224)],
}
REFERENCE = {mode: transforms.Compose([*crops, *_LAST]) for mode, crops in _CROPS.items()}
OURS = {"train": TrainTransform(FORMAT), "eval": EvalTransform(FORMAT)}
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (FORMAT.mean, FORMAT.std))


Decoder = Callable[[bytes], torch.Tensor]


def by_pillow(mode: str, content: bytes) -> torch.Tensor:
    """Returns an image as decoded in torchvision's reference training."""
    return REFERENCE[mode](Image.open(io.BytesIO(content)).convert("RGB"))


def by_dogbreed(mode: str, content: bytes) -> torch.Tensor:
    """Returns an image as dogbreed decodes it."""
    pixels = load_image(content, OURS[mode], random.Random())
    return pixels.float().div_(255).sub_(MEAN).div_(STD)


class PerItem(Dataset[torch.Tensor]):
    """Reads one image per item, like most datasets; `connect` creates the reader in the worker."""

    def __init__(self, keys: list[str], connect: Callable[[], Callable[[str], bytes]], image: Decoder) -> None:
        self.keys, self.connect, self.image = keys, connect, image
        self._read: Callable[[str], bytes] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> torch.Tensor:
        self._read = self._read or self.connect()
        return self.image(self._read(self.keys[position]))


def folder(root: str) -> Callable[[str], bytes]:
    """Reads files, like ImageFolder."""
    return lambda key: (Path(root) / key).read_bytes()


def boto3_items(bucket: str, endpoint: str) -> Callable[[str], bytes]:
    """One `get_object` per item."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    return lambda key: client.get_object(Bucket=bucket, Key=key)["Body"].read()


def s3fs_items(bucket: str, endpoint: str) -> Callable[[str], bytes]:
    """One `cat` per item."""
    import s3fs

    files = s3fs.S3FileSystem(client_kwargs={"endpoint_url": endpoint, "region_name": "us-east-1"})
    return lambda key: files.cat(f"{bucket}/{key}")


def s3torchconnector_dataset(kind: str, endpoint: str, image: Decoder) -> Any:
    """Amazon's datasets, which list the bucket; the iterable one does not shuffle."""
    import s3torchconnector

    make = getattr(s3torchconnector, kind).from_prefix
    options = {"enable_sharding": True} if kind == "S3IterableDataset" else {}
    options |= {"s3client_config": s3torchconnector.S3ClientConfig(force_path_style=True), "endpoint": endpoint}
    return make("s3://images/train/", region="us-east-1", transform=partial(_read_then, image), **options)


def _read_then(image: Decoder, item: Any) -> torch.Tensor:
    return image(item.read())


def webdataset_loader(tars: int, num_workers: int, image: Decoder) -> Iterator[torch.Tensor]:
    """Reads prepared tar files through a pipe, as in its documentation."""
    import webdataset

    urls = f"pipe:{os.environ['RCLONE']} cat :s3:webdataset/{{000..{tars - 1:03d}}}.tar"
    dataset = webdataset.WebDataset(urls, shardshuffle=100, empty_check=False).shuffle(500).to_tuple("jpg")
    batched = dataset.map_tuple(image).batched(BATCH_SIZE)
    for (images,) in webdataset.WebLoader(batched, batch_size=None, num_workers=num_workers):
        yield images


def _let_litdata_use_http() -> None:
    """Makes obstore accept http://, which litdata does not enable."""
    import obstore.store

    made = obstore.store.S3Store
    obstore.store.S3Store = lambda *args, **options: made(*args, **{**options, "client_options": {"allow_http": True}})


def litdata_raw(endpoint: str, image: Decoder) -> Any:
    """litdata over the raw images."""
    _let_litdata_use_http()
    from litdata import StreamingRawDataset

    options = {"endpoint_url": endpoint}
    return StreamingRawDataset(
        "s3://litdata-raw", cache_dir=tempfile.mkdtemp(), storage_options=options, transform=image
    )


def litdata_loader(endpoint: str, num_workers: int, shuffle: bool, image: Decoder) -> Any:
    """litdata over prepared chunks."""
    _let_litdata_use_http()
    import litdata

    options = {"shuffle": shuffle, "storage_options": {"endpoint_url": endpoint}, "transform": image}
    dataset = litdata.StreamingDataset("s3://litdata", cache_dir=tempfile.mkdtemp(), **options)
    return litdata.StreamingDataLoader(dataset, batch_size=BATCH_SIZE, num_workers=num_workers)


def mosaicml_loader(endpoint: str, num_workers: int, shuffle: bool, image: Decoder) -> Any:
    """mosaicml-streaming over prepared shards."""
    import streaming
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()  # it would reuse the shards of an interrupted measurement
    os.environ["S3_ENDPOINT_URL"] = endpoint

    class Images(streaming.StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return image(super().__getitem__(at)["image"])

    dataset = Images(remote="s3://mosaicml-streaming", local=tempfile.mkdtemp(), shuffle=shuffle, batch_size=BATCH_SIZE)
    return DataLoader(dataset, BATCH_SIZE, num_workers=num_workers)


def ours(url: str, endpoint: str | None, num_workers: int, mode: str) -> Iterator[torch.Tensor]:
    """Yields dogbreed's batches as a model receives them."""
    data = ImageDataModule(
        url,
        input_spec=FORMAT,
        endpoint_url=endpoint,
        num_workers=num_workers,
        batch_size=BATCH_SIZE,
        val_fraction=0,
        test_fraction=0,
    )
    try:
        for batch in data.loader("train", shuffle=mode == "train", augment=mode == "train"):
            yield data.on_after_batch_transfer(batch, 0).images
    finally:
        data.teardown("fit")


def open_peer(name: str, mode: str, buckets: Path, endpoint: str, num_workers: int) -> Iterator[torch.Tensor]:
    """Yields the batches of one epoch."""
    peer, _, own = name.partition("+")
    image = partial(by_dogbreed if own else by_pillow, mode)
    root, shuffle = buckets / "images", mode == "train"
    paths = sorted(root.glob("train/*/*.jpg"))
    per_item = {
        "ImageFolder": partial(folder, str(root)),
        "boto3": partial(boto3_items, "images", endpoint),
        "s3fs": partial(s3fs_items, "images", endpoint),
    }
    if peer in ("dogbreed", "dogbreed-folder"):
        place = ("s3://images", endpoint) if peer == "dogbreed" else (str(root), None)
        yield from ours(*place, num_workers, mode)
    elif peer == "webdataset":
        yield from webdataset_loader(math.ceil(len(paths) / 100), num_workers, image)
    elif peer == "litdata":
        yield from litdata_loader(endpoint, num_workers, shuffle, image)
    elif peer == "mosaicml-streaming":
        yield from mosaicml_loader(endpoint, num_workers, shuffle, image)
    elif peer == "s3torchconnector-iterable":
        dataset = s3torchconnector_dataset("S3IterableDataset", endpoint, image)
        yield from DataLoader(dataset, BATCH_SIZE, num_workers=num_workers)
    else:
        if peer in per_item:
            keys = [path.relative_to(root).as_posix() for path in paths]
            dataset = PerItem(keys, per_item[peer], image)
        elif peer == "litdata-raw":
            dataset = litdata_raw(endpoint, image)
        else:
            dataset = s3torchconnector_dataset("S3MapDataset", endpoint, image)
        yield from DataLoader(dataset, BATCH_SIZE, shuffle=shuffle, num_workers=num_workers)


def measure(batches: Iterator[torch.Tensor], seconds: float) -> dict[str, float]:
    """Returns images per second and CPU ms per image of all processes after the second batch, and seconds to the first.

    At the second batch every worker runs; the cost of starting is in the seconds to the first batch. `seconds` starts
    there, because batches that queue up during a slow start would otherwise inflate the rate.
    """
    began, seen = time.perf_counter(), 0
    marks: list[tuple[float, float, int]] = []
    processes: list[psutil.Process] = []
    first_s = 0.0
    for number, images in enumerate(batches):
        assert images.dtype == torch.float32
        seen += len(images)
        now = time.perf_counter()
        if number == 0:
            first_s = now - began
            continue
        # The workers; short-lived programs that they read from are counted after they end.
        workers = (child.pid for child in multiprocessing.active_children())
        processes = processes or [psutil.Process(), *map(psutil.Process, workers)]
        try:
            marks[1:] = [(now, sum(sum(process.cpu_times()[:4]) for process in processes), seen)]
        except psutil.NoSuchProcess:  # a worker has read its whole share: the remaining batches are already queued
            break
        if now - marks[0][0] > seconds and number > _LEAST_BATCHES:
            break
    batches.close()  # type: ignore[attr-defined]  # a generator: its workers end
    wall_s, cpu_s, count = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
    return {"images_s": count / wall_s, "cpu_ms": cpu_s / count * 1000, "first_s": first_s, "seen": seen}


def run(
    place: tuple[str, str, Path, str, int], seconds: float, environment: dict[str, str], answer: Connection
) -> None:
    """Measures one peer in this process, and sends the results, or the error as `failed`.

    Args:
        place: As in `open_peer`.
        seconds: As in `measure`.
        environment: Variables added to those of this process.
        answer: Receives the results.
    """
    os.setpgrp()
    multiprocessing.set_start_method("fork", force=True)  # the default on Linux; this process itself was spawned
    os.environ |= environment
    tempfile.tempdir = None  # boto3 must read them from the environment again
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        answer.send(measure(open_peer(*place), seconds))
    except Exception as error:  # noqa: BLE001 - each library raises other exceptions
        answer.send({"failed": (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]})
    answer.close()
    os._exit(0)  # some libraries leave threads that never end
