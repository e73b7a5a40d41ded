"""One thread that runs the network, on all images that are waiting at once.

Nothing waits for others to come: whatever came in while the last batch ran makes the next one. A single client's
image is therefore answered at once, and many clients' images share a forward pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Rows = NDArray[np.floating[Any]]

FAILURES_IN_A_ROW = 3
"""After so many batches that failed one after the other the endpoint calls itself unhealthy."""


class DeadError(Exception):
    """The network's thread has ended: nothing is answered any more."""


class _Item(NamedTuple):
    pixels: torch.Tensor
    answer: Future[Rows]


class Batcher:
    """Runs `classify` in a thread of its own.

    Args:
        classify: uint8 (B, 3, H, W) to (B, num_classes).
        max_batch: Images that it is given at once.
    """

    def __init__(self, classify: Callable[[torch.Tensor], Rows], max_batch: int) -> None:
        self._classify = classify
        self._max_batch = max_batch
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._busy_since: float | None = None
        self._failures = 0
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def submit(self, pixels: torch.Tensor) -> Future[Rows]:
        """Returns the future answer (B, num_classes) for uint8 (B, 3, H, W).

        Raises:
            DeadError: nobody would ever answer.
        """
        item = _Item(pixels, Future())
        self._queue.put(item)
        if self._ended:  # asked after the item is in the queue, which the thread empties after it has set this
            raise DeadError("the network's thread has ended")
        return item.answer

    def problem(self, patience_s: float) -> str | None:
        """Returns why nothing can be answered, or None; a batch may run for `patience_s` seconds."""
        since = self._busy_since
        if self._ended:
            return "the network's thread has ended"
        if since is not None and time.monotonic() - since > patience_s:
            return f"a batch has been running for {time.monotonic() - since:.0f} s"
        if self._failures >= FAILURES_IN_A_ROW:
            return f"the last {self._failures} batches failed"
        return None

    def stop(self) -> None:
        """Ends the thread when it has answered what is waiting."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        items: list[_Item] = []
        try:
            while items := self._take():
                self._busy_since = time.monotonic()
                self._answer(items)
                self._busy_since = None
        finally:
            self._ended = True
            while not self._queue.empty():
                items += [item for item in (self._queue.get(),) if item]
            for item in items:
                if not item.answer.done():
                    item.answer.set_exception(DeadError("the network's thread has ended"))

    def _take(self) -> list[_Item]:
        """Returns what is waiting, at least one; nothing when it is time to end."""
        items: list[_Item] = []
        num_images = 0
        while num_images < self._max_batch and (not items or not self._queue.empty()):
            item = self._queue.get()
            if item is None:
                if items:
                    self._queue.put(None)  # for the next call, when these have been answered
                break
            items.append(item)
            num_images += len(item.pixels)
        return items

    def _answer(self, items: list[_Item]) -> None:
        try:
            parts = torch.cat([item.pixels for item in items]).split(self._max_batch)
            rows = np.concatenate([self._classify(part) for part in parts])
        except Exception as error:  # noqa: BLE001 - each client is told, and /ping when it does not pass
            self._failures += 1
            for item in items:
                item.answer.set_exception(error)
            return
        self._failures = 0
        start = 0
        for item in items:
            item.answer.set_result(rows[start : start + len(item.pixels)])
            start += len(item.pixels)
