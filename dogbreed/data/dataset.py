"""The streaming dataset: which images make which batch, and a worker's way from keys to one uint8 tensor.

Order is a function of seed and epoch alone. Batches are numbered over all processes and dealt round-robin to the
workers, and `DataLoader` collects them round-robin, so the model sees the same batches for any number of workers.
Random numbers of augmentation depend on seed, epoch and image alone. Nothing of it depends on what was fetched
before, so a resumed epoch can begin at any batch without reading what came before it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from dogbreed.data.decode import decode
from dogbreed.data.index import Split
from dogbreed.data.shared_memory import SharedMemoryPool, hold
from dogbreed.data.transforms import Crop, Transform
from dogbreed.errors import UserError
from dogbreed.storage.base import ImageError, ObjectBody, ObjectRequest, Store, UnreachableError
from dogbreed.storage.disk_cache import Cache
from dogbreed.storage.prefetch import prefetch
from dogbreed.storage.retry import wait_for
from dogbreed.system import cpu as cores
from dogbreed.system.threads import ahead, single_threaded

_MOST_THREADS = 4
"""That decode in the process that trains."""

_AHEAD = 16
"""Images that they decode before they are asked for."""


class Problem(NamedTuple):
    """Why an image is left out."""

    row: int
    """Position in the split's keys."""
    reason: str
    passes: bool = False
    """It could not be had, but another time may find it well."""


class WorkerBatch(NamedTuple):
    """What a worker hands over: one batch without the images that could not be read.

    A tensor travels in shared memory of its own, which costs half a millisecond whatever its size.
    """

    images: torch.Tensor
    """uint8 (B, 3, H, W)."""
    labels: NDArray[np.int64]
    """int64 (B,)."""
    indices: NDArray[np.int64]
    """int64 (B,): position in the split's keys."""
    problems: list[Problem]
    """Of the images that are left out."""
    failure: str | None = None
    """Why the store cannot be read any more; such a parcel is a worker's last."""
    trouble: str | None = None
    """Why the worker's cache takes nothing more."""

    def pin_memory(self) -> WorkerBatch:
        """Returns a copy from which a GPU reads faster; `DataLoader` calls this."""
        return self._replace(images=hold(self.images).pin_memory())


@dataclass(frozen=True)
class BatchSampler:
    """Which images make which batch: a pure function of these fields and the epoch."""

    num_images: int
    batch_size: int
    shuffle: bool
    seed: int
    rank: int = 0
    world_size: int = 1
    labels: NDArray[np.int64] | None = None
    """int64 (num_images,): each class is shown equally often; None: each image is shown once."""

    @property
    def num_shown(self) -> int:
        """Images that an epoch shows: all, or, of classes that are to be equal, rounded up to a whole number each."""
        if self.labels is None:
            return self.num_images
        num_classes = len(np.unique(self.labels))
        return math.ceil(self.num_images / max(1, num_classes)) * num_classes

    def __len__(self) -> int:
        """Returns the number of batches of each process: all have the same."""
        return math.ceil(self.num_shown / (self.batch_size * self.world_size))

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Returns this process's batches of an epoch in order, each int64 (B,) positions in the split.

        Every image is in exactly one batch of one process, and no batch exceeds `batch_size`. With `labels` an image
        of a small class is shown as often as another of its class or once more, and of a large class not all are shown,
        others in each epoch. What does not fill
        the last round of batches is shared evenly among the last two, so that from a batch size of 3 on none holds a
        single image, on which batch norm fails, and no process waits for ever for the batches of another.
        """
        chance = np.random.default_rng((self.seed, epoch))
        order = np.arange(self.num_images) if self.labels is None else _equally(self.labels, self.num_shown, chance)
        if self.shuffle:
            chance.shuffle(order)
        bounds = np.cumsum([0, *self._sizes()])
        rounds = range(self.rank, len(bounds) - 1, self.world_size)
        return [order[bounds[batch] : bounds[batch + 1]] for batch in rounds]

    def _sizes(self) -> list[int]:
        full_rounds = max(0, len(self) - 2)
        full = [self.batch_size] * (full_rounds * self.world_size)
        num_shared = (len(self) - full_rounds) * self.world_size
        if not num_shared:
            return full
        size, extra = divmod(self.num_shown - sum(full), num_shared)
        return full + [size + 1] * extra + [size] * (num_shared - extra)


def _equally(labels: NDArray[np.int64], num_shown: int, chance: np.random.Generator) -> NDArray[np.int64]:
    """Returns `num_shown` positions, equally many of each class."""
    _, counts = np.unique(labels, return_counts=True)
    drawn = []
    for own in np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1]):
        times, rest = divmod(num_shown // len(counts), len(own))
        drawn += [np.tile(own, times), chance.choice(own, rest, replace=False)]
    return np.concatenate(drawn)


class ImageStream(IterableDataset[WorkerBatch]):
    """Batches of one split, streamed from a store. Iterate it through a `ImageLoader`.

    Args:
        store: Where the images lie.
        split: Which of them.
        order: Which make which batch.
        transform: From decoded pixels to what the model takes.
        size: Height and width of what `transform` returns, px.
        cache: Of what was fetched.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        order: BatchSampler,
        transform: Transform,
        size: tuple[int, int],
        *,
        cache: Cache | None = None,
    ) -> None:
        self.store = store
        self.split = split
        self.order = order
        self.transform = transform
        self.size = size
        self.cache = cache
        # Epoch and first batch, in shared memory: workers that live through several epochs read them there.
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._outbox = SharedMemoryPool()

    def __len__(self) -> int:
        return len(self.order)

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Chooses order, augmentation and first batch of the next iteration, in this process and in its workers."""
        self._start[0], self._start[1] = epoch, batch

    def __iter__(self) -> Iterator[WorkerBatch]:
        """Yields this worker's share of the batches."""
        epoch, start = self._start.tolist()
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        self._outbox.take_back()  # of an epoch that was left in the middle
        batches = self.order.batches(epoch)[start + first :: step]
        with closing(
            self._images(batches, epoch, threads=worker is None and not self.transform.uses_torch_chance)
        ) as decoded:
            for batch in batches:
                parcel = self._parcel(batch, decoded)
                yield parcel
                if parcel.failure:
                    return

    def _images(
        self, batches: list[NDArray[np.int64]], epoch: int, *, threads: bool
    ) -> Generator[Callable[[], torch.Tensor]]:
        """Yields what returns each image of `batches`, or raises why there is none.

        A worker decodes them as it is asked. In the process that trains `threads` do, a few ahead of it.
        """
        indices = [index for batch in batches for index in batch.tolist()]
        with closing(prefetch(self.store, map(self._wanted, indices), self.cache)) as contents:
            # Not strict: asked for its end, the prefetch would drop what threads are still waiting for.
            each = zip(indices, contents, strict=False)
            jobs = (partial(self._image, index, content, epoch) for index, content in each)
            if not threads:
                yield from jobs
                return
            pool = single_threaded(min(_MOST_THREADS, cores.count()), "decode")
            try:
                yield from ahead(pool, jobs, _AHEAD)
            finally:  # without waiting: the garbage collector may close an abandoned iteration in such a thread
                pool.shutdown(wait=False, cancel_futures=True)

    def _wanted(self, index: int) -> ObjectRequest:
        split = self.split
        version = None if split.versions is None else int(split.versions[index])
        return ObjectRequest(split.keys[index], int(split.sizes[index]), version)

    def _parcel(self, batch: NDArray[np.int64], decoded: Iterator[Callable[[], torch.Tensor]]) -> WorkerBatch:
        shape = len(batch), 3, *self.size
        images = self._outbox.empty(shape) if get_worker_info() else torch.empty(shape, dtype=torch.uint8)
        good: list[int] = []
        problems: list[Problem] = []
        failure = None
        for index in batch.tolist():
            try:
                images[len(good)] = next(decoded)()
            except ImageError as error:
                problems.append(Problem(index, str(error), isinstance(error, UnreachableError)))
                continue
            except UserError as error:
                failure = str(error)
                break
            good.append(index)
        trouble = self.cache.trouble if self.cache else None
        indices = np.array(good, dtype=np.int64)
        return WorkerBatch(images[: len(good)], self.split.labels[indices], indices, problems, failure, trouble)

    def _image(self, index: int, content: Future[ObjectBody], epoch: int) -> torch.Tensor:
        """Returns uint8 (3, height, width); decoded no larger than it is needed."""
        views: list[Crop] = []

        def reduction(height: int, width: int) -> int:
            rng = random.Random(f"{self.order.seed}/{epoch}/{index}")
            view = self.transform.view(height, width, rng)
            views.append(view.reduced(self.transform.spare))
            return views[-1].reduction

        pixels = decode(wait_for(content, self.split.keys[index]).data, reduction)
        return self.transform.render(pixels, views[-1], views[-1].reduction)
