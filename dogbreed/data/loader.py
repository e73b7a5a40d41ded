"""What the trainer iterates: the workers' parcels as batches, and what went wrong with single images."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from dogbreed.data.dataset import ImageStream, WorkerBatch
from dogbreed.data.shared_memory import hold
from dogbreed.errors import UserError

log = logging.getLogger(__name__)


_LEAST_SEEN = 1000
"""Images over which unreadable ones are counted at least."""


class Batch(NamedTuple):
    """Images and what is known of them. Smaller, even empty, where images could not be read."""

    images: torch.Tensor
    """(B, 3, H, W): uint8 as the loader gives it, float32 and normalised as the model gets it."""
    labels: torch.Tensor
    """int64 (B,): index in `datamodule.classes`."""
    indices: torch.Tensor
    """int64 (B,): position in the split, `datamodule.keys(split)[i]` names the image."""


class ImageLoader:
    """Iterates over the batches of a stream, through worker processes where `num_workers` > 0.

    Its state is what Lightning keeps in a checkpoint: a training that was stopped in mid-epoch goes on with the very
    next batch, whatever the number of workers was and is, and nothing that was seen is fetched again.

    Args:
        stream: Whose batches.
        num_workers: Processes that fetch and decode; 0: this one does.
        report: Called with key and reason for each image that is left out, every time it is met.
        max_bad: Share of the images seen in an epoch that may be unreadable, counted over no fewer than 1000: a data
            set of a hundred images is not given up for two.
        fingerprint: Of the data, to notice at a resume that they have changed.
        epoch: Says which epoch begins, at the first batch of an iteration; None: iterations are counted from 0.
        pin_memory: Batches go to a GPU.

    Attributes:
        num_unreachable: How often an image was left out that another time may find well.
    """

    def __init__(
        self,
        stream: ImageStream,
        num_workers: int,
        report: Callable[[str, str], None],
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
        self._report = report
        self._epoch = epoch
        self._pin_memory = pin_memory
        self.num_unreachable = 0
        self._current_epoch = -1
        self._given = 0
        self._resume_at: tuple[int, int] | None = None
        self._parcels: DataLoader[WorkerBatch] | None = None

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of one epoch; of one that is resumed, those that are left.

        Raises:
            UserError: the store cannot be read any more, or too many images, or not one, could be read.
        """
        self._begin()
        num_good = num_bad = 0
        first: list[str] = []
        for parcel in self._parcels_of_epoch():
            for index, reason, passes in parcel.problems:
                key = self.stream.split.keys[index]
                self._report(key, reason)
                self.num_unreachable += passes
                first += [f"{key} ({reason})"] if len(first) < 3 else []
            if parcel.trouble and self.stream.cache:
                self.stream.cache.say(parcel.trouble)
            if parcel.failure:
                raise UserError(parcel.failure)
            num_good += len(parcel.labels)
            num_bad += len(parcel.problems)
            if num_bad > self.max_bad * max(num_good + num_bad, _LEAST_SEEN):
                raise UserError(
                    f"{num_bad} of {num_good + num_bad} images of {self.stream.store.url} could not be read, "
                    f"more than data.max_bad={self.max_bad:g} allows; the first: {', '.join(first)}"
                )
            self._given += 1
            labels, indices = torch.from_numpy(parcel.labels), torch.from_numpy(parcel.indices)
            yield Batch(hold(parcel.images) if self.num_workers else parcel.images, labels, indices)
        if num_bad and not num_good:
            raise UserError(f"not one of {num_bad} images of {self.stream.store.url} could be read")

    def _begin(self) -> None:
        """Tells the workers where to begin: after the batches that a resumed epoch already gave."""
        counted = self._current_epoch + 1
        if self._resume_at:
            epoch, given = self._resume_at
            counted = epoch if given < len(self) else epoch + 1
        self._current_epoch = counted if self._epoch is None else self._epoch()
        self._given = self._resume_at[1] if self._resume_at and self._resume_at[0] == self._current_epoch else 0
        self._resume_at = None
        self.stream.start_at(self._current_epoch, self._given)

    def state_dict(self) -> dict[str, Any]:
        """Returns where the training stands: `batches` were given to it, not just prefetched, of `epoch`."""
        order = self.stream.order
        kept = {name: getattr(order, name) for name in ("num_images", "batch_size", "shuffle", "seed", "world_size")}
        if order.labels is not None:
            kept["balanced"] = True
        epoch, given = self._resume_at or (self._current_epoch, self._given)
        return {"epoch": epoch, "batches": given, "fingerprint": self.fingerprint, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lets the next iteration go on from `state`; warns where that cannot be exact.

        Images that were added or taken away, or another batch size, seed or number of processes, give another order.
        The epoch is then still counted through to its end, as Lightning does, but in the new order.
        """
        if self._resume_at == (state["epoch"], state["batches"]):
            return  # Lightning's loop and the data module may both know it
        self._resume_at = state["epoch"], state["batches"]
        now = self.state_dict()
        changes = ", ".join(
            f"{name} {state.get(name)} is now {now.get(name)}"
            for name in now | state
            if now.get(name) != state.get(name)
        )
        if changes and state["batches"] > 0:
            log.warning(
                "%s is not as it was when the checkpoint was made (%s): epoch %d goes on after batch %d in a new "
                "order, so it may show some images twice and others not at all",
                self.stream.store.url, changes, state["epoch"], state["batches"],
            )  # fmt: skip

    def close(self) -> None:
        """Ends the worker processes; the next iteration starts new ones."""
        self._parcels = None

    def _parcels_of_epoch(self) -> Iterator[WorkerBatch]:
        if not self.num_workers:
            for parcel in self.stream:
                yield parcel.pin_memory() if self._pin_memory else parcel
            return
        try:
            yield from self._open()
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            # Most often the kernel did it, for want of memory; the dead worker itself could say nothing.
            self.close()
            raise UserError(
                f"a process that loads images has died ({_last_line(error)}); "
                "if memory ran out, take a smaller data.num_workers or batch_size"
            ) from error

    def _open(self) -> DataLoader[WorkerBatch]:
        if self._parcels is None:
            self._parcels = DataLoader(
                self.stream,
                batch_size=None,
                num_workers=self.num_workers,
                collate_fn=_as_it_is,
                persistent_workers=True,
                worker_init_fn=_begin_worker,
                pin_memory=self._pin_memory,
                # Of its own: it draws a seed for each iteration, also a resumed one, which must not move the model's.
                generator=torch.Generator(),
                multiprocessing_context=self._context(),
            )
        return self._parcels

    def _context(self) -> str | None:
        """Returns how to start workers: as Python does by default, unless they would not survive a fork.

        Spawned ones import torch anew, which takes seconds; it is needed only after this very process has read from
        the store, which with workers it never does.
        """
        if multiprocessing.get_start_method() != "fork":
            return None
        return None if self.stream.store.fork_is_safe() else "spawn"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].rstrip(" .")


def _begin_worker(number: int) -> None:
    """Takes what was imported out of the garbage collector's rounds, which every few hundred requests begin one.

    They cost 0.05 to 0.1 ms an image, and copy every page with a Python object that a fork has left shared.
    """
    gc.freeze()


def _as_it_is(parcel: Any) -> Any:
    return parcel
