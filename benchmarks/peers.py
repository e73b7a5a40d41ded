"""One epoch through one way of reading pictures, in a process of its own: prints what it cost as one line of JSON.

    python -m benchmarks.peers PEER FOLDER S3_URL ENDPOINT NUM_WORKERS SECONDS

Started by benchmarks.streaming. Every peer gives normalised float32 (B, 3, 224, 224) in the main process, with the
same random crops. A name that ends in `+decode` reads as the peer does, but decodes and resizes as dogbreed does.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.data.decode import decode
from dogbreed.data.transforms import PictureFormat, TrainTransform, View

BATCH_SIZE = 32
FORMAT = PictureFormat()
REFERENCE = transforms.Compose([
    transforms.RandomResizedCrop(224, interpolation=transforms.InterpolationMode.BICUBIC),
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
    transforms.Normalize(FORMAT.mean, FORMAT.std),
])  # fmt: skip
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (FORMAT.mean, FORMAT.std))


def by_pillow(content: bytes) -> torch.Tensor:
    """Returns a picture as the torchvision reference training makes it."""
    return REFERENCE(Image.open(io.BytesIO(content)).convert("RGB"))


def by_dogbreed(content: bytes) -> torch.Tensor:
    """Returns a picture as dogbreed decodes it."""
    transform, views, seed = TrainTransform(FORMAT), list[View](), random.random()

    def reduction(height: int, width: int) -> int:
        views.append(transform.view(height, width, random.Random(seed)).reduced(transform.spare))
        return views[-1].reduction

    pixels = transform.render(decode(content, reduction), views[-1], views[-1].reduction)
    return pixels.float().div_(255).sub_(MEAN).div_(STD)


class PerItem(Dataset[torch.Tensor]):
    """Reads one picture when it is asked for, as most datasets do.

    Args:
        keys: of the pictures.
        connect: makes the function from key to content, in the worker.
        picture: from content to tensor.
    """

    def __init__(
        self, keys: list[str], connect: Callable[[], Callable[[str], bytes]], picture: Callable[[bytes], torch.Tensor]
    ) -> None:
        self.keys, self.connect, self.picture = keys, connect, picture
        self._read: Callable[[str], bytes] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> torch.Tensor:
        self._read = self._read or self.connect()
        return self.picture(self._read(self.keys[position]))


def folder(root: str) -> Callable[[str], bytes]:
    """Reads files: what ImageFolder does."""
    return lambda key: (Path(root) / key).read_bytes()


def boto3_items(bucket: str, endpoint: str) -> Callable[[str], bytes]:
    """One `get_object` an item."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    return lambda key: client.get_object(Bucket=bucket, Key=key)["Body"].read()


def s3fs_items(bucket: str, endpoint: str) -> Callable[[str], bytes]:
    """One `cat` an item."""
    import s3fs

    files = s3fs.S3FileSystem(client_kwargs={"endpoint_url": endpoint, "region_name": "us-east-1"})
    return lambda key: files.cat(f"{bucket}/{key}")


def s3torchconnector_loader(
    bucket: str, endpoint: str, num_workers: int, picture: Callable[[bytes], torch.Tensor]
) -> DataLoader[torch.Tensor]:
    """Amazon's map-style dataset; it lists by itself."""
    from s3torchconnector import S3ClientConfig, S3MapDataset

    dataset = S3MapDataset.from_prefix(
        f"s3://{bucket}/train/", region="us-east-1", endpoint=endpoint,
        transform=partial(_read_then, picture), s3client_config=S3ClientConfig(force_path_style=True),
    )  # fmt: skip
    return DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=num_workers)


def _read_then(picture: Callable[[bytes], torch.Tensor], item: Any) -> torch.Tensor:
    return picture(item.read())


def webdataset_loader(tars: str, num_workers: int, picture: Callable[[bytes], torch.Tensor]) -> Any:
    """Reads tar files that were made before."""
    import webdataset

    dataset = webdataset.WebDataset(tars, shardshuffle=100, empty_check=False).shuffle(500).to_tuple("jpg")
    return webdataset.WebLoader(
        dataset.map_tuple(picture).batched(BATCH_SIZE), batch_size=None, num_workers=num_workers
    )


def ours(url: str, endpoint: str | None, num_workers: int) -> Iterator[torch.Tensor]:
    """Yields dogbreed's batches as a model gets them."""
    data = ImageDataModule(
        url, endpoint_url=endpoint, num_workers=num_workers, batch_size=BATCH_SIZE, valid_fraction=0, test_fraction=0
    )
    try:
        for batch in data.train_dataloader():
            yield data.on_after_batch_transfer(batch, 0).images
    finally:
        data.teardown("fit")  # joins the workers: their CPU time counts only then


def open_peer(name: str, root: str, url: str, endpoint: str, num_workers: int) -> Generator[torch.Tensor, None, None]:
    """Yields the batches of one epoch."""
    peer, _, own = name.partition("+")
    picture = by_dogbreed if own else by_pillow
    bucket = url.removeprefix("s3://")
    if peer in ("dogbreed", "dogbreed-folder"):
        yield from ours(url, endpoint, num_workers) if peer == "dogbreed" else ours(root, None, num_workers)
    elif peer == "s3torchconnector":
        yield from s3torchconnector_loader(bucket, endpoint, num_workers, picture)
    elif peer == "webdataset":
        for (images,) in webdataset_loader(os.environ["BENCHMARK_TARS"], num_workers, picture):
            yield images
    else:
        connect = {
            "ImageFolder": partial(folder, root),
            "boto3": partial(boto3_items, bucket, endpoint),
            "s3fs": partial(s3fs_items, bucket, endpoint),
        }[peer]
        keys = [path.relative_to(root).as_posix() for path in sorted(Path(root).glob("train/*/*.jpg"))]
        yield from DataLoader(PerItem(keys, connect, picture), BATCH_SIZE, shuffle=True, num_workers=num_workers)


def measure(batches: Generator[torch.Tensor, None, None], seconds: float) -> dict[str, float]:
    """Returns images a second and CPU ms a picture of all processes after the second batch, and seconds to the first.

    By the second batch every worker runs: what starting costs shows in the seconds to the first.
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
        # Workers' own children have ended, or are counted when they do.
        processes = processes or [psutil.Process(), *psutil.Process().children()]
        marks[1:] = [(now, sum(sum(process.cpu_times()[:4]) for process in processes), seen)]
        if now - began > seconds:
            break
    batches.close()
    wall_s, cpu_s, count = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
    return {"images_s": count / wall_s, "cpu_ms": cpu_s / count * 1000, "first_s": first_s, "seen": seen}


def main(arguments: list[str]) -> None:
    """Measures one peer."""
    name, root, url, endpoint, num_workers, seconds = arguments
    torch.set_num_threads(1)
    print(json.dumps(measure(open_peer(name, root, url, endpoint, int(num_workers)), float(seconds))))


if __name__ == "__main__":
    main(sys.argv[1:])
