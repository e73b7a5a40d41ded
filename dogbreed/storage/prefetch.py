"""Fetches objects ahead of the caller, concurrently and in order: an event loop in a thread, with a bounded window."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from typing import NamedTuple

from dogbreed.storage.base import ObjectBody, ObjectRequest, Store
from dogbreed.storage.disk_cache import DiskCache
from dogbreed.storage.retry import RetryingFetcher

WINDOW = 128
"""Objects in flight or waiting to be decoded, per worker."""

WINDOW_BYTES = 32 * 2**20
"""Bytes in flight or waiting to be decoded, per worker; a single larger object is still fetched."""


def prefetch(
    store: Store,
    requests: Iterable[ObjectRequest],
    cache: DiskCache | None = None,
    *,
    window: int = WINDOW,
    window_bytes: int = WINDOW_BYTES,
) -> Generator[Future[ObjectBody]]:
    """Yields the objects of `requests` in order, fetched ahead of time or read from the cache.

    Each object is a future, so that a failed one does not end the iteration. Closing the generator cancels what is in
    flight.

    Args:
        store: Where objects are fetched.
        requests: Which, in this order.
        cache: Read before fetching, and filled; None: every object is fetched.
        window: Objects in flight or not consumed yet.
        window_bytes: Their bytes, as listed.
    """
    requests = iter(requests)
    upcoming = next(requests, None)
    pending: deque[tuple[Future[ObjectBody], int]] = deque()
    pending_bytes = 0
    thread = _FetchThread(store, cache)
    thread.start()
    try:
        while upcoming or pending:
            batch: list[_Job] = []
            # Waking the thread costs as much as a small request, so it is woken for a quarter of the window at a time,
            # and never for more: the first training batch should not share the bandwidth with later ones.
            refill = len(pending) <= window * 3 // 4
            while refill and upcoming and len(pending) < window and len(batch) <= window // 4:
                if pending and pending_bytes + upcoming.size > window_bytes:
                    break
                batch.append(_Job(upcoming, Future()))
                pending.append((batch[-1].body, upcoming.size))
                pending_bytes += upcoming.size
                upcoming = next(requests, None)
            if batch:
                thread.submit(batch)
            future, size = pending.popleft()
            yield future
            pending_bytes -= size
    finally:
        thread.stop()


class _Job(NamedTuple):
    request: ObjectRequest
    body: Future[ObjectBody]


class _FetchThread(threading.Thread):
    """Runs a store's requests on its own event loop."""

    def __init__(self, store: Store, cache: DiskCache | None) -> None:
        super().__init__(name="fetch", daemon=True)
        self._fetcher, self._cache = RetryingFetcher(store), cache
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[ObjectBody]] = set()

    def run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._cancel_all())
        finally:
            self._loop.close()

    def submit(self, jobs: list[_Job]) -> None:
        self._loop.call_soon_threadsafe(self._start, jobs)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self is not threading.current_thread():  # the garbage collector may close an abandoned generator here
            self.join()

    def _start(self, jobs: list[_Job]) -> None:
        for request, body in jobs:
            task = self._loop.create_task(self._fetch(request))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._finish, body))

    async def _fetch(self, request: ObjectRequest) -> ObjectBody:
        fetch = functools.partial(self._fetcher.fetch, request.key, request.size)
        return await (self._cache.fetch(request, fetch) if self._cache else fetch())

    def _finish(self, future: Future[ObjectBody], task: asyncio.Task[ObjectBody]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            future.cancel()
        elif error := task.exception():
            future.set_exception(error)
        else:
            future.set_result(task.result())

    async def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._loop.shutdown_default_executor()
