"""Fetches objects with retries, hedged requests and timeouts."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from dogbreed.storage.base import ObjectBody, Store, TransientError, UnreachableError

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8
"""Attempts per object while the store answers other requests."""

GIVE_UP_S = 120.0
"""How long an object is retried while the store answers no request at all."""

OUTAGE_OBJECTS = 5
"""So many objects that fail together, while none is returned, mean that the store answers no request."""

FIRST_BACKOFF_S = 0.05
"""Upper bound of the first backoff, doubled with each retry and shortened by jitter.

Throttled requests back off immediately; after other failures the first retry is immediate.
"""

MAX_BACKOFF_S = 10.0

TIMEOUT_S = 30.0
"""Timeout of one request, plus as much again for each `TIMEOUT_BYTES`."""

TIMEOUT_BYTES = 4 * 2**20

HEDGE_FRACTION = 0.05
"""Largest fraction of requests that may be hedged."""

MIN_HEDGE_S = 0.5
"""A hedged request is sent this long after the first one at the earliest."""

WARN_AFTER_S = 30.0
"""How long the training waits for one image before it logs the image's key, and between repetitions of the warning."""


class RetryingFetcher:
    """Fetches objects from a store with retries, exponential backoff and hedged requests. Belongs to one event loop.

    A request that takes unusually long (more than the mean plus four mean deviations, TCP's retransmission timeout of
    RFC 6298) is sent a second time and the first response wins, so one stalled connection does not block training.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last_response_at = time.monotonic()
        self._mean_s = self._deviation_s = 0.0
        self._num_responses = self._num_hedges = self._num_pending = 0

    async def fetch(self, key: str, size: int) -> ObjectBody:
        """Returns the content of `key`, whose listed size is `size` bytes.

        Raises:
            UnreachableError: all attempts failed.
            UserError: the store cannot be read at all.
        """
        self._num_pending += 1
        try:
            return await self._fetch(key, size)
        finally:
            self._num_pending -= 1

    async def _fetch(self, key: str, size: int) -> ObjectBody:
        started = time.monotonic()
        attempts = backoffs = 0
        failures: list[float] = []
        while True:
            attempts += 1
            is_throttled = False
            try:
                return await self._fetch_hedged(key, TIMEOUT_S * (1 + size / TIMEOUT_BYTES))
            except TransientError as error:
                reason, is_throttled = str(error), error.is_throttled
            except asyncio.TimeoutError:
                reason = "timed out"
            elapsed_s = time.monotonic() - started
            failures.append(time.monotonic())
            # In an outage many objects fail, and none was returned since this one began to fail.
            is_outage = (
                self._num_pending >= OUTAGE_OBJECTS and self._last_response_at < failures[-MAX_ATTEMPTS // 2 :][0]
            )
            store_responds = self._last_response_at > started and not is_outage
            if (attempts >= MAX_ATTEMPTS and store_responds) or elapsed_s > GIVE_UP_S:
                raise UnreachableError(f"gave up after {attempts} attempts in {elapsed_s:.0f} s: {reason}")
            if attempts > 1 or is_throttled:
                backoff_s = min(FIRST_BACKOFF_S * 2**backoffs, MAX_BACKOFF_S)
                backoffs += 1
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1))

    async def _fetch_hedged(self, key: str, timeout_s: float) -> ObjectBody:
        """Returns the first successful response of at most two requests."""
        started = time.monotonic()
        pending = {asyncio.ensure_future(self._store.fetch(key))}
        hedged = False
        try:
            while (elapsed_s := time.monotonic() - started) < timeout_s:
                if not hedged and elapsed_s > self._hedge_after_s() and self._may_hedge():
                    hedged = True
                    self._num_hedges += 1
                    pending.add(asyncio.ensure_future(self._store.fetch(key)))
                # Until hedged, wakes up now and then: responses to other requests change the threshold.
                wait_s = timeout_s - elapsed_s if hedged else min(MIN_HEDGE_S, timeout_s - elapsed_s)
                done, pending = await asyncio.wait(pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                succeeded = [task for task in done if not task.exception()]
                if succeeded or (done and not pending):
                    body = (succeeded or list(done))[0].result()
                    self._record_latency(time.monotonic() - started)
                    return body
            raise asyncio.TimeoutError
        finally:
            for task in pending:
                task.cancel()

    def _hedge_after_s(self) -> float:
        return max(MIN_HEDGE_S, self._mean_s + 4 * self._deviation_s) if self._num_responses else TIMEOUT_S

    def _may_hedge(self) -> bool:
        return self._num_hedges < 4 + HEDGE_FRACTION * self._num_responses

    def _record_latency(self, latency_s: float) -> None:
        """Updates the moving mean and mean deviation with the gains of RFC 6298, 1/8 and 1/4."""
        self._last_response_at = time.monotonic()
        self._num_responses += 1
        if self._num_responses == 1:
            self._mean_s, self._deviation_s = latency_s, latency_s / 2
        self._deviation_s += (abs(latency_s - self._mean_s) - self._deviation_s) / 4
        self._mean_s += (latency_s - self._mean_s) / 8


def wait_for(body: Future[ObjectBody], key: str) -> ObjectBody:
    """Returns the fetched object; warns every `WARN_AFTER_S` seconds and gives up after three times `GIVE_UP_S`.

    Raises:
        UnreachableError: the object cannot be fetched, or the store hangs, as a network disk may.
        UserError: the store can no longer be read.
    """
    waited_s = 0.0
    while waited_s < 3 * GIVE_UP_S:
        try:
            return body.result(WARN_AFTER_S)
        except FutureTimeoutError:
            waited_s += WARN_AFTER_S
            log.warning("waiting for %s: no response for %.0f s", key, waited_s)
    raise UnreachableError(f"no response for {waited_s:.0f} s")
