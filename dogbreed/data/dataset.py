"""The streaming dataset: a worker's path from keys to uint8 batches.

Batches are numbered over all processes and dealt round-robin to the workers, and `DataLoader` collects them
round-robin, so the model sees the same batches for any number of workers. Augmentation depends on seed, epoch, image
and, if the image is repeated in an epoch, on the repetition alone. A resumed epoch can therefore start at any batch
without reading the ones before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from dogbreed.data.index import Split
from dogbreed.data.sampler import BatchSampler
from dogbreed.data.shared_memory import SharedMemoryPool, attach
from dogbreed.data.transforms import Transform, load_image
from dogbreed.errors import UserError
from dogbreed.storage.base import ImageError, ObjectBody, ObjectRequest, Store, UnreachableError
from dogbreed.storage.disk_cache import DiskCache
from dogbreed.storage.prefetch import prefetch
from dogbreed.storage.retry import wait_for
from dogbreed.system.cpu import cpu_count
from dogbreed.system.threads import run_ahead, single_threaded_pool

_MAX_DECODE_THREADS = 4
"""Threads that decode in the main process, without workers."""

_DECODE_AHEAD = 16
"""Images that these threads decode ahead of the training."""


class SkippedImage(NamedTuple):
    """An image that is missing from its batch."""

    position: int
    """In the split's keys."""
    reason: str
    is_unreachable: bool = False
    """It could not be fetched; a later attempt may succeed."""


class WorkerBatch(NamedTuple):
    """A batch as workers send it. Arrays instead of tensors where possible: each tensor gets its own shared memory."""

    images: torch.Tensor
    """uint8 (B, 3, H, W)."""
    labels: NDArray[np.int64]
    """int64 (B,)."""
    indices: NDArray[np.int64]
    """int64 (B,): positions in the split's keys."""
    skipped: list[SkippedImage]
    store_error: str | None = None
    """Why the store can no longer be read; such a batch is the worker's last."""
    cache_error: str | None = None
    """Why the worker's cache stores nothing more."""

    def pin_memory(self) -> WorkerBatch:
        """Returns a copy in pinned memory, from which transfers to a GPU are faster; called by `DataLoader`."""
        return self._replace(images=attach(self.images).pin_memory())


class ImageStream(IterableDataset[WorkerBatch]):
    """The batches of one split, streamed from a store or its disk cache. Iterate it through an `ImageLoader`."""

    def __init__(
        self,
        store: Store,
        split: Split,
        sampler: BatchSampler,
        transform: Transform,
        *,
        cache: DiskCache | None = None,
    ) -> None:
        self.store = store
        self.split = split
        self.sampler = sampler
        self.transform = transform
        self.cache = cache
        # Epoch and first batch, in shared memory, where persistent workers read them at each epoch.
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._pool = SharedMemoryPool()

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return self.transform.spec.height, self.transform.spec.width

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Sets the epoch and first batch of the next iteration, in this process and in its workers."""
        self._start[0], self._start[1] = epoch, batch

    def __iter__(self) -> Iterator[WorkerBatch]:
        """Yields this worker's share of the batches."""
        epoch, start = self._start.tolist()
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        self._pool.reclaim()  # buffers of an epoch that was not iterated to its end
        own = slice(start + first, None, step)
        batches, repeats = self.sampler.batches(epoch)[own], self.sampler.repeats(epoch)[own]
        seeds = (
            f"{self.sampler.seed}/{epoch}/{index}" + (f"/{repeat}" if repeat else "")
            for indices, counts in zip(batches, repeats, strict=True)
            for index, repeat in zip(indices.tolist(), counts.tolist(), strict=True)
        )
        use_threads = worker is None and not self.transform.uses_torch_rng
        with closing(self._images(batches, seeds, use_threads)) as images:
            for indices in batches:
                batch = self._collect(indices, images)
                yield batch
                if batch.store_error:
                    return

    def _images(
        self, batches: list[NDArray[np.int64]], seeds: Iterator[str], use_threads: bool
    ) -> Generator[Callable[[], torch.Tensor]]:
        """Yields, for each image of `batches`, a function that returns it or raises why it cannot be read.

        `seeds` has one seed of the random crop for each image.
        Workers decode when the function is called; the main process uses threads that decode a few images ahead.
        """
        indices = [index for batch in batches for index in batch.tolist()]
        with closing(prefetch(self.store, map(self._request, indices), self.cache)) as bodies:
            # Not strict: exhausting `bodies` would stop fetches that decoding threads still wait for.
            jobs = (partial(self._load, *job) for job in zip(indices, bodies, seeds, strict=False))
            if not use_threads:
                yield from jobs
                return
            pool = single_threaded_pool(min(_MAX_DECODE_THREADS, cpu_count()), "decode")
            try:
                yield from run_ahead(pool, jobs, _DECODE_AHEAD)
            finally:  # does not wait: the garbage collector may close an abandoned iteration in such a thread
                pool.shutdown(wait=False, cancel_futures=True)

    def _request(self, index: int) -> ObjectRequest:
        split = self.split
        version = None if split.versions is None else int(split.versions[index])
        return ObjectRequest(split.keys[index], int(split.sizes[index]), version)

    def _load(self, index: int, body: Future[ObjectBody], seed: str) -> torch.Tensor:
        """Returns uint8 (3, height, width)."""
        data = wait_for(body, self.split.keys[index]).data
        return load_image(data, self.transform, random.Random(seed))

    def _collect(self, batch: NDArray[np.int64], images: Iterator[Callable[[], torch.Tensor]]) -> WorkerBatch:
        shape = len(batch), 3, *self.size
        pixels = self._pool.empty(shape) if get_worker_info() else torch.empty(shape, dtype=torch.uint8)
        good: list[int] = []
        skipped: list[SkippedImage] = []
        store_error = None
        for index in batch.tolist():
            try:
                pixels[len(good)] = next(images)()
            except ImageError as error:
                skipped.append(SkippedImage(index, str(error), isinstance(error, UnreachableError)))
                continue
            except UserError as error:
                store_error = str(error)
                break
            good.append(index)
        cache_error = self.cache.error if self.cache else None
        indices = np.array(good, dtype=np.int64)
        return WorkerBatch(pixels[: len(good)], self.split.labels[indices], indices, skipped, store_error, cache_error)
