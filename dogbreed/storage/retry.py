"""Getting an image from a store that is slow, busy or unreliable: retries, a second request, and an end to waiting."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet

from dogbreed.storage.base import BusyError, ObjectBody, Store, UnreachableError

log = logging.getLogger(__name__)

TRIES = 8
"""Requests for an image before it is given up, where the store answers others."""

GIVE_UP_S = 120.0
"""How long an image is tried for, where the store answers nothing at all."""

FIRST_WAIT_S = 0.05
"""Most of the wait after a store says it is overloaded; it doubles with each try, and chance takes some of it off.

What was lost on the way is asked for again at once, and only then waited for in the same way.
"""

LONGEST_WAIT_S = 10.0

TIMEOUT_S = 30.0
"""How long one request may take, and as much again for each `TIMEOUT_BYTES`."""

TIMEOUT_BYTES = 4 * 2**20

HEDGE_SHARE = 0.05
"""Share of the requests that may be asked a second time because the first takes unusually long."""

LEAST_HEDGE_S = 0.5
"""A second request is never sent sooner than this after the first."""

SAY_AFTER_S = 30.0
"""How long the training waits for one image before it says which; it says so again after each such time."""


class RetryingFetcher:
    """Gets contents from a store, and keeps trying as long as that makes sense. Lives in one event loop.

    A request that takes much longer than usual (four mean deviations above the mean, as TCP judges a lost packet) is
    asked a second time, and the first answer counts: one stalled connection then holds nobody up.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._answered_at = time.monotonic()
        self._mean_s = self._deviation_s = 0.0
        self._num_answers = self._num_hedges = 0

    async def fetch(self, key: str, size: int) -> ObjectBody:
        """Returns the content of `key`, whose listed size is `size` bytes.

        Raises:
            UnreachableError: it cannot be had, also after several tries.
            UserError: the store refuses to be read.
        """
        began = time.monotonic()
        tries = waits = 0
        while True:
            tries += 1
            is_overloaded = False
            try:
                return await self._hedged(key, TIMEOUT_S * (1 + size / TIMEOUT_BYTES))
            except BusyError as error:
                reason, is_overloaded = str(error), error.is_overloaded
            except asyncio.TimeoutError:
                reason = "no answer in time"
            waited = time.monotonic() - began
            others_are_answered = self._answered_at > began
            if (tries >= TRIES and others_are_answered) or waited > GIVE_UP_S:
                raise UnreachableError(f"given up after {tries} tries in {waited:.0f} s: {reason}")
            if tries > 1 or is_overloaded:
                longest = min(FIRST_WAIT_S * 2**waits, LONGEST_WAIT_S)
                waits += 1
                await asyncio.sleep(longest * random.uniform(0.5, 1))

    async def _hedged(self, key: str, timeout_s: float) -> ObjectBody:
        """Returns the answer to the first of at most two requests that gets one."""
        began = time.monotonic()
        pending = {asyncio.ensure_future(self._store.fetch(key))}
        hedged = False
        try:
            while (took_s := time.monotonic() - began) < timeout_s:
                if not hedged and took_s > self._unusual_s() and self._may_hedge():
                    hedged = True
                    self._num_hedges += 1
                    pending.add(asyncio.ensure_future(self._store.fetch(key)))
                # What is usual is learned from others in the meantime, so it is looked at again now and then.
                wait_s = timeout_s - took_s if hedged else min(LEAST_HEDGE_S, timeout_s - took_s)
                done, pending = await asyncio.wait(pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                good = [task for task in done if not task.exception()]
                if good or (done and not pending):
                    content = (good or list(done))[0].result()
                    self._learn(time.monotonic() - began)
                    return content
            raise asyncio.TimeoutError
        finally:
            for task in pending:
                task.cancel()

    def _unusual_s(self) -> float:
        return max(LEAST_HEDGE_S, self._mean_s + 4 * self._deviation_s) if self._num_answers else TIMEOUT_S

    def _may_hedge(self) -> bool:
        return self._num_hedges < 4 + HEDGE_SHARE * self._num_answers

    def _learn(self, took_s: float) -> None:
        """Moves the mean and its deviation by an eighth and a quarter, as RFC 6298 does."""
        self._answered_at = time.monotonic()
        self._num_answers += 1
        if self._num_answers == 1:
            self._mean_s, self._deviation_s = took_s, took_s / 2
        self._deviation_s += (abs(took_s - self._mean_s) - self._deviation_s) / 4
        self._mean_s += (took_s - self._mean_s) / 8


def wait_for(content: Future[ObjectBody], key: str) -> ObjectBody:
    """Returns a content when it is there; says in the log which key is being waited for, and at last gives up.

    Raises:
        UnreachableError: it cannot be had, also where a store neither answers nor can be interrupted: a network disk.
        UserError: the store cannot be read any more.
    """
    waited_s = 0.0
    while waited_s < 3 * GIVE_UP_S:
        try:
            return content.result(SAY_AFTER_S)
        except NotYet:
            waited_s += SAY_AFTER_S
            log.warning("waiting for %s: no answer for %.0f s", key, waited_s)
    raise UnreachableError(f"no answer for {waited_s:.0f} s")
