import asyncio
import gc
import threading
import time
from collections.abc import Iterator

import pytest

from dogbreed.storage.base import ImageError, ObjectBody, ObjectInfo, ObjectRequest
from dogbreed.storage.prefetch import prefetch


class SlowStore:
    """Returns each key after `delay_s`, and counts requests in flight."""

    url = "slow"

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.started: list[str] = []
        self.in_flight = self.most_in_flight = 0

    def entries(self) -> Iterator[ObjectInfo]:
        return iter(())

    def fork_is_safe(self) -> bool:
        return True

    async def fetch(self, key: str) -> ObjectBody:
        self.started.append(key)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        # Later keys are faster; results must still be in order.
        await asyncio.sleep(self.delay_s * (1 + (hash(key) % 7)))
        self.in_flight -= 1
        if key.endswith("bad"):
            raise ImageError("broken")
        return ObjectBody(key.encode(), "")


def wanted(count: int, size: int = 1) -> list[ObjectRequest]:
    return [ObjectRequest(f"k{number}", size) for number in range(count)]


def fetch_threads() -> int:
    gc.collect()  # an exception keeps its frames alive, and with them an open prefetch of an earlier test
    return sum(thread.name == "fetch" for thread in threading.enumerate())


def test_contents_are_in_order() -> None:
    found = [future.result() for future in prefetch(SlowStore(0.0005), wanted(300), window=16)]
    assert [content.data for content in found] == [key.encode() for key, _, _ in wanted(300)]
    assert fetch_threads() == 0


def test_no_keys_yield_nothing() -> None:
    assert list(prefetch(SlowStore(), [])) == []


def test_requests_overlap_up_to_the_window() -> None:
    store = SlowStore(0.02)
    began = time.perf_counter()
    for future in prefetch(store, wanted(200), window=32):
        future.result()
    assert 24 <= store.most_in_flight <= 32
    assert time.perf_counter() - began < 200 * 0.02 * 4 / 5


def test_bytes_in_flight_are_bounded_except_for_one_image() -> None:
    store = SlowStore(0.001)
    found = [future.result() for future in prefetch(store, wanted(20, size=60), window=32, window_bytes=200)]
    assert len(found) == 20
    assert store.most_in_flight <= 3
    assert len(list(prefetch(SlowStore(), wanted(5, size=500), window=32, window_bytes=200))) == 5


def test_failure_does_not_affect_other_keys() -> None:
    futures = prefetch(SlowStore(), [ObjectRequest("a", 1), ObjectRequest("bad", 1), ObjectRequest("c", 1)])
    assert next(futures).result().data == b"a"
    with pytest.raises(ImageError, match="broken"):
        next(futures).result()
    assert next(futures).result().data == b"c"


def test_close_drops_requests_in_flight() -> None:
    store = SlowStore(0.05)
    futures = prefetch(store, wanted(1000), window=8)
    next(futures).result()
    began = time.perf_counter()
    futures.close()
    assert time.perf_counter() - began < 1
    assert fetch_threads() == 0
    assert len(store.started) <= 16
