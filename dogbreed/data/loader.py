"""What the trainer iterates: the workers' parcels as batches, and what went wrong with single pictures."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from dogbreed.data.stream import Parcel, PictureStream
from dogbreed.errors import UserError


class Batch(NamedTuple):
    """Pictures and what is known of them. Smaller, even empty, where pictures could not be read."""

    images: torch.Tensor
    """(B, 3, H, W): uint8 as the loader gives it, float32 and normalised as the model gets it."""
    labels: torch.Tensor
    """int64 (B,): index in `datamodule.classes`."""
    indices: torch.Tensor
    """int64 (B,): position in the split, `datamodule.keys(split)[i]` names the picture."""


class PictureLoader:
    """Iterates over the batches of a stream, through worker processes where `num_workers` > 0.

    Args:
        stream: Whose batches.
        num_workers: Processes that fetch and decode; 0: this one does.
        report: Called with key and reason for each picture that is left out, every time it is met.
        epoch: Says which epoch begins, at the first batch of an iteration; None: iterations are counted from 0.
        pin_memory: Batches go to a GPU.
    """

    def __init__(
        self,
        stream: PictureStream,
        num_workers: int,
        report: Callable[[str, str], None],
        epoch: Callable[[], int] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.stream = stream
        self.num_workers = num_workers
        self._report = report
        self._epoch = epoch
        self._pin_memory = pin_memory
        self._iterations = 0
        self._parcels: DataLoader[Parcel] | None = None

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of one epoch.

        Raises:
            UserError: the store can not be read any more, or not one picture could be read.
        """
        self.stream.set_epoch(self._iterations if self._epoch is None else self._epoch())
        self._iterations += 1
        num_good = num_bad = 0
        for parcel in self._open():
            for index, reason in parcel.problems:
                self._report(self.stream.split.keys[index], reason)
            if parcel.failure:
                raise UserError(parcel.failure)
            num_good += len(parcel.labels)
            num_bad += len(parcel.problems)
            yield Batch(parcel.images, parcel.labels, parcel.indices)
        if num_bad and not num_good:
            raise UserError(f"not one of {num_bad} pictures of {self.stream.store.url} could be read")

    def close(self) -> None:
        """Ends the worker processes; the next iteration starts new ones."""
        self._parcels = None

    def _open(self) -> DataLoader[Parcel]:
        if self._parcels is None:
            self._parcels = DataLoader(
                self.stream,
                batch_size=None,
                num_workers=self.num_workers,
                collate_fn=_as_it_is,
                persistent_workers=self.num_workers > 0,
                pin_memory=self._pin_memory,
                multiprocessing_context=self._context(),
            )
        return self._parcels

    def _context(self) -> str | None:
        """Returns how to start workers: as Python does by default, unless they would not survive a fork.

        Spawned ones import torch anew, which takes seconds; it is needed only after this very process has read from
        the store, which with workers it never does.
        """
        if self.num_workers == 0 or multiprocessing.get_start_method() != "fork":
            return None
        return None if self.stream.store.fork_is_safe() else "spawn"


def _as_it_is(parcel: Any) -> Any:
    return parcel
