"""Dynamic batching: one thread runs the network on all images that are waiting.

There is no batching delay. Requests that arrive during a forward pass form the next batch, so a single client is
answered immediately and many clients share a forward pass.
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

MAX_CONSECUTIVE_FAILURES = 3
"""Failed batches in a row after which the endpoint reports itself unhealthy."""

_STOPPED = "the inference thread has stopped"


class BatcherStoppedError(Exception):
    """The inference thread has stopped; no request can be answered any more."""


class _Item(NamedTuple):
    pixels: torch.Tensor
    result: Future[Rows]


class Batcher:
    """Runs `classify`, uint8 (B, 3, H, W) to (B, num_classes), in its own thread; `max_batch` is the largest B."""

    def __init__(self, classify: Callable[[torch.Tensor], Rows], max_batch: int) -> None:
        self._classify = classify
        self._max_batch = max_batch
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._busy_since: float | None = None
        self._failures = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, pixels: torch.Tensor) -> Future[Rows]:
        """Queues uint8 (B, 3, H, W) and returns the future result (B, num_classes).

        Raises:
            BatcherStoppedError: the inference thread has stopped.
        """
        item = _Item(pixels, Future())
        self._queue.put(item)
        if self._stopped:  # checked after put(): the thread sets the flag first and then drains the queue
            raise BatcherStoppedError(_STOPPED)
        return item.result

    def problem(self, timeout_s: float) -> str | None:
        """Returns why the batcher is unhealthy, or None; a batch counts as hung after `timeout_s` seconds."""
        since = self._busy_since
        if self._stopped:
            return _STOPPED
        if since is not None and time.monotonic() - since > timeout_s:
            return f"a batch has been running for {time.monotonic() - since:.0f} s"
        if self._failures >= MAX_CONSECUTIVE_FAILURES:
            return f"the last {self._failures} batches failed"
        return None

    def stop(self) -> None:
        """Stops the thread after it has processed the queue."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        items: list[_Item] = []
        try:
            while items := self._next_batch():
                self._busy_since = time.monotonic()
                self._process(items)
                self._busy_since = None
        finally:
            self._stopped = True
            while not self._queue.empty():
                items += [item for item in (self._queue.get(),) if item]
            for item in items:
                if not item.result.done():
                    item.result.set_exception(BatcherStoppedError(_STOPPED))

    def _next_batch(self) -> list[_Item]:
        """Waits for an item and returns it with all others in the queue; returns an empty list to stop."""
        items: list[_Item] = []
        num_images = 0
        while num_images < self._max_batch and (not items or not self._queue.empty()):
            item = self._queue.get()
            if item is None:
                if items:
                    self._queue.put(None)  # stop at the next call, after these items
                break
            items.append(item)
            num_images += len(item.pixels)
        return items

    def _process(self, items: list[_Item]) -> None:
        try:
            parts = torch.cat([item.pixels for item in items]).split(self._max_batch)
            rows = np.concatenate([self._classify(part) for part in parts])
        except Exception as error:  # noqa: BLE001 - each client gets the error, and /ping reports repeated failures
            self._failures += 1
            for item in items:
                item.result.set_exception(error)
            return
        self._failures = 0
        start = 0
        for item in items:
            item.result.set_result(rows[start : start + len(item.pixels)])
            start += len(item.pixels)
