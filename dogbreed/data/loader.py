"""ImageLoader: the workers' batches as the trainer iterates them, with exact resume and bounded skipping."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from dogbreed.data.dataset import ImageStream, WorkerBatch
from dogbreed.data.shared_memory import attach
from dogbreed.errors import UserError

log = logging.getLogger(__name__)


_MIN_COUNTED = 1000
"""The share of skipped images is computed over at least this many."""


class Batch(NamedTuple):
    """A batch of images. Smaller, or even empty, if images were skipped."""

    images: torch.Tensor
    """(B, 3, H, W): uint8 as loaded, float32 and normalised when the model gets it."""
    labels: torch.Tensor
    """int64 (B,): index in `datamodule.classes`."""
    indices: torch.Tensor
    """int64 (B,): position in the split; `datamodule.keys(split)[i]` is the image's key."""


class ImageLoader:
    """Iterates over the batches of a stream, through worker processes if `num_workers` > 0.

    Lightning stores its state in checkpoints: a training that was interrupted in mid-epoch resumes with the very next
    batch, for any number of workers before and after, without fetching earlier images again.

    Args:
        stream: The batches.
        num_workers: Processes that fetch and decode; 0: this process.
        on_skipped: Called with key and reason for each skipped image, in every epoch.
        max_bad: Largest share of an epoch's images that may be skipped, 0 to 1, computed over at least 1000 images, so
            that two bad images do not end a training on a hundred.
        fingerprint: Of the data, to notice on resume that it has changed.
        epoch: Returns the epoch that starts, called at the first batch; None: iterations are counted from 0.
        pin_memory: Copies batches to pinned memory, for a GPU.

    Attributes:
        num_unreachable: How often an image was skipped that a later attempt may fetch.
    """

    def __init__(
        self,
        stream: ImageStream,
        num_workers: int,
        on_skipped: Callable[[str, str], None],
        *,
        max_bad: float = 1.0,
        fingerprint: str = "",
        epoch: Callable[[], int] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.stream = stream
        self.num_workers = num_workers
        self.fingerprint = fingerprint
        self.max_bad = max_bad
        self.num_unreachable = 0
        self._on_skipped = on_skipped
        self._epoch = epoch
        self._pin_memory = pin_memory
        self._current_epoch = -1
        self._num_yielded = 0
        self._resume_at: tuple[int, int] | None = None
        self._dataloader: DataLoader[WorkerBatch] | None = None

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of one epoch; the remaining ones if the epoch is resumed.

        Raises:
            UserError: the store can no longer be read, or too many images were skipped.
        """
        self._begin_epoch()
        num_good = num_bad = 0
        first: list[str] = []
        url = self.stream.store.url
        for batch in self._worker_batches():
            for skipped in batch.skipped:
                key = self.stream.split.keys[skipped.position]
                self._on_skipped(key, skipped.reason)
                self.num_unreachable += skipped.is_unreachable
                first += [f"{key} ({skipped.reason})"] if len(first) < 3 else []
            if batch.cache_error and self.stream.cache:
                self.stream.cache.warn(batch.cache_error)
            if batch.store_error:
                raise UserError(batch.store_error)
            num_good += len(batch.labels)
            num_bad += len(batch.skipped)
            if num_bad > self.max_bad * max(num_good + num_bad, _MIN_COUNTED):
                raise UserError(
                    f"{num_bad} of {num_good + num_bad} images of {url} could not be read, "
                    f"more than data.max_bad={self.max_bad:g} allows; the first: {', '.join(first)}"
                )
            self._num_yielded += 1
            labels, indices = torch.from_numpy(batch.labels), torch.from_numpy(batch.indices)
            yield Batch(attach(batch.images) if self.num_workers else batch.images, labels, indices)
        if num_bad and not num_good:
            raise UserError(f"none of {num_bad} images of {url} could be read")

    def _begin_epoch(self) -> None:
        """Sets the epoch and first batch of the workers: after the batches that a resumed epoch already yielded."""
        counted = self._current_epoch + 1
        if self._resume_at:
            epoch, num_yielded = self._resume_at
            counted = epoch if num_yielded < len(self) else epoch + 1
        self._current_epoch = counted if self._epoch is None else self._epoch()
        self._num_yielded = self._resume_at[1] if self._resume_at and self._resume_at[0] == self._current_epoch else 0
        self._resume_at = None
        self.stream.start_at(self._current_epoch, self._num_yielded)

    def state_dict(self) -> dict[str, Any]:
        """Returns the training's position: `batches` of `epoch` were yielded, not just prefetched."""
        sampler = self.stream.sampler
        settings = {
            name: getattr(sampler, name) for name in ("num_images", "batch_size", "shuffle", "seed", "world_size")
        }
        if sampler.labels is not None:
            settings["balanced"] = True
        epoch, num_yielded = self._resume_at or (self._current_epoch, self._num_yielded)
        return {"epoch": epoch, "batches": num_yielded, "fingerprint": self.fingerprint, **settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration resume from `state`; warns if that cannot be exact.

        Other images, batch size, seed or number of processes mean another order. The epoch is then completed in the
        new order, with the number of batches that are left.
        """
        if self._resume_at == (state["epoch"], state["batches"]):
            return  # both Lightning's loop and the data module may restore it
        self._resume_at = state["epoch"], state["batches"]
        now = self.state_dict()
        changes = ", ".join(
            f"{name} {state.get(name)} is now {now.get(name)}"
            for name in now | state
            if now.get(name) != state.get(name)
        )
        if changes and state["batches"] > 0:
            log.warning(
                "%s has changed since the checkpoint (%s): epoch %d continues after batch %d in a new order, "
                "so it may repeat some images and miss others",
                self.stream.store.url, changes, state["epoch"], state["batches"],
            )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """Returns everything but the worker processes."""
        return {**vars(self), "_dataloader": None}

    def close(self) -> None:
        """Ends the worker processes; the next iteration starts new ones."""
        self._dataloader = None

    def _worker_batches(self) -> Iterator[WorkerBatch]:
        if not self.num_workers:
            for batch in self.stream:
                yield batch.pin_memory() if self._pin_memory else batch
            return
        try:
            yield from self._open()
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            # Usually the kernel killed it for lack of memory.
            self.close()
            reason = str(error).strip().splitlines()[-1].rstrip(" .")
            raise UserError(
                f"a data loading process died ({reason}); "
                "if it ran out of memory, use a smaller data.num_workers or batch_size; "
                'in a script, start the training under `if __name__ == "__main__":`'
            ) from error

    def _open(self) -> DataLoader[WorkerBatch]:
        if self._dataloader is None:
            self._dataloader = DataLoader(
                self.stream,
                batch_size=None,
                num_workers=self.num_workers,
                collate_fn=_identity,
                persistent_workers=True,
                worker_init_fn=_freeze_imports,
                pin_memory=self._pin_memory,
                # DataLoader draws a seed per iteration; from the global generator that would make a resumed run differ.
                generator=torch.Generator(),
                multiprocessing_context=self._context(),
            )
        return self._dataloader

    def _context(self) -> str | None:
        """Returns how to start workers: Python's default, unless a fork would break the store's client.

        Spawned workers import torch again, which takes seconds; needed only if this process itself has fetched.
        """
        if multiprocessing.get_start_method() != "fork":
            return None
        return None if self.stream.store.fork_is_safe() else "spawn"


def _freeze_imports(worker_id: int) -> None:
    """Excludes imported modules from garbage collection, whose passes would copy all pages shared by the fork."""
    gc.freeze()


def _identity(batch: Any) -> Any:
    return batch
