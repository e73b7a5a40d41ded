"""Many requests in flight while the caller decodes: a thread with an event loop, and a bounded window in order."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from typing import NamedTuple

from dogbreed.storage.base import ObjectBody, ObjectRequest, Store
from dogbreed.storage.disk_cache import Cache, through
from dogbreed.storage.retry import RetryingFetcher

WINDOW = 128
"""Requests in flight or waiting to be decoded, for each worker."""

WINDOW_BYTES = 32 * 2**20
"""Bytes in flight or waiting to be decoded, for each worker; a single larger image still passes."""


def prefetch(
    store: Store,
    wanted: Iterable[ObjectRequest],
    cache: Cache | None = None,
    *,
    window: int = WINDOW,
    window_bytes: int = WINDOW_BYTES,
) -> Generator[Future[ObjectBody]]:
    """Yields the contents of `wanted` in that order, requested ahead of time, or read from the cache.

    Each comes as a future, so that one that fails does not end the others. Closing the generator drops what is in
    flight.
    """
    wanted = iter(wanted)
    upcoming = next(wanted, None)
    pending: deque[tuple[Future[ObjectBody], int]] = deque()
    pending_bytes = 0
    thread = _FetchThread(store, cache)
    thread.start()
    try:
        while upcoming or pending:
            requests: list[_Request] = []
            # The thread is woken for a quarter of the window at once: a wake-up costs as much as a small request.
            topping_up = len(pending) <= window * 3 // 4
            # And never for more, so that the first batch need not share the line with those after it.
            while topping_up and upcoming and len(pending) < window and len(requests) <= window // 4:
                if pending and pending_bytes + upcoming.size > window_bytes:
                    break
                requests.append(_Request(upcoming, Future()))
                pending.append((requests[-1].content, upcoming.size))
                pending_bytes += upcoming.size
                upcoming = next(wanted, None)
            if requests:
                thread.submit(requests)
            future, size = pending.popleft()
            yield future
            pending_bytes -= size
    finally:
        thread.stop()


class _Request(NamedTuple):
    wanted: ObjectRequest
    content: Future[ObjectBody]


class _FetchThread(threading.Thread):
    """Runs a store's requests on an event loop of its own."""

    def __init__(self, store: Store, cache: Cache | None) -> None:
        super().__init__(name="fetch", daemon=True)
        self._patience, self._cache = RetryingFetcher(store), cache
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[ObjectBody]] = set()

    def run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._drop())
        finally:
            self._loop.close()

    def submit(self, requests: list[_Request]) -> None:
        self._loop.call_soon_threadsafe(self._start, requests)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self is not threading.current_thread():  # in which the garbage collector may close an abandoned iteration
            self.join()

    def _start(self, requests: list[_Request]) -> None:
        for wanted, content in requests:
            task = self._loop.create_task(self._get(wanted))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._finish, content))

    async def _get(self, wanted: ObjectRequest) -> ObjectBody:
        fetch = functools.partial(self._patience.fetch, wanted.key, wanted.size)
        if self._cache is None or wanted.version is None:
            return await fetch()
        return await through(self._cache, self._cache.name(wanted.key, wanted.version), wanted, fetch)

    def _finish(self, future: Future[ObjectBody], task: asyncio.Task[ObjectBody]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            future.cancel()
        elif error := task.exception():
            future.set_exception(error)
        else:
            future.set_result(task.result())

    async def _drop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._loop.shutdown_default_executor()
