"""The images that the benchmarks read, and their conversions for some peers."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

_SHARD_BYTES = 12 * 2**20
"""Chunk size of litdata and mosaicml-streaming: about 100 images, as in webdataset's tars. In a short measurement,
larger chunks would be a single one per worker."""


def prepare(buckets: Path, count: int, photos: Path | None, peers: set[str]) -> dict[str, float]:
    """Creates the missing buckets, `images` and those that `peers` read; returns seconds by conversion."""
    root, noted = buckets / "images", buckets / "conversions.json"
    if not root.exists():
        write_images(root, count, photos)
    paths = sorted(root.glob("train/*/*.jpg"))
    random.Random(0).shuffle(paths)
    seconds: dict[str, float] = json.loads(noted.read_text()) if noted.exists() else {}
    for peer, convert in CONVERSIONS.items():
        if peer in peers and peer not in seconds:
            began = time.perf_counter()
            convert(paths, buckets / peer)
            seconds[peer] = time.perf_counter() - began
            noted.write_text(json.dumps(seconds))
    return {peer: took for peer, took in seconds.items() if peer != "litdata-raw"}


def write_images(root: Path, count: int, photos: Path | None) -> None:
    """Writes `count` JPEG files of 20 classes: nine in ten 500 x 375 px, one in ten 1600 x 1200 px, quality 90."""
    rng = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.[jJ]*"))] if photos else []
    for number in range(count):
        size = (1600, 1200) if number % 10 == 9 else (500, 375)
        if originals:
            image = originals[number % len(originals)].resize(size)
        else:
            rough = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            pixels = np.asarray(Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)).astype(float)
            image = Image.fromarray((pixels + rng.normal(0, 9, pixels.shape)).clip(0, 255).astype(np.uint8))
        path = root / f"train/class_{number * 7 // 10 % 20:02d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def to_tars(paths: list[Path], target: Path) -> None:
    """Packs the images for webdataset, 100 per tar."""
    target.mkdir()
    for start in range(0, len(paths), 100):
        with tarfile.open(target / f"{start // 100:03d}.tar", "w") as tar:
            for path in paths[start : start + 100]:
                info = tarfile.TarInfo(path.name)
                info.size = path.stat().st_size
                tar.addfile(info, io.BytesIO(path.read_bytes()))


def to_litdata(paths: list[Path], target: Path) -> None:
    """Writes litdata's chunks."""
    import litdata

    litdata.optimize(_content, [str(path) for path in paths], str(target), num_workers=2, chunk_bytes=_SHARD_BYTES)


def _content(path: str) -> bytes:
    return Path(path).read_bytes()


def to_mds(paths: list[Path], target: Path) -> None:
    """Writes the shards of mosaicml-streaming."""
    from streaming import MDSWriter

    with MDSWriter(out=str(target), columns={"image": "bytes"}, size_limit=_SHARD_BYTES) as writer:
        for path in paths:
            writer.write({"image": path.read_bytes()})


def link(paths: list[Path], target: Path) -> None:
    """Creates a separate bucket of raw images for litdata, which writes an index next to them."""
    for path in paths:
        here = target / path.parent.name / path.name
        here.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, here)


CONVERSIONS: dict[str, Callable[[list[Path], Path], None]] = {
    "webdataset": to_tars, "litdata": to_litdata, "mosaicml-streaming": to_mds, "litdata-raw": link,
}  # fmt: skip
"""Conversions by peer, which is also the name of the bucket."""
