"""Threads that compute with torch side by side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")


def single_threaded(count: int, name: str) -> ThreadPoolExecutor:
    """Returns `count` threads in which torch starts none of its own; in all others it does as before.

    Several threads for one image cost more than they save: 10 to 18 ms of CPU by two, 2.7 ms by one (2 busy cores).
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, name, _stay_alone)
    all_there = threading.Barrier(count)
    wait([pool.submit(all_there.wait) for _ in range(count)])
    torch.set_num_threads(before)
    return pool


def _stay_alone() -> None:
    torch.set_num_threads(1)  # of this thread, and of all that have not yet asked
    torch.get_num_threads()  # now this one has


def ahead(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], T]], depth: int) -> Iterator[Callable[[], T]]:
    """Yields, in order, what waits for each job's result; `depth` jobs more than were asked for are begun."""
    begun: deque[Future[T]] = deque()
    for job in jobs:
        begun.append(pool.submit(job))
        if len(begun) > depth:
            yield begun.popleft().result
    while begun:
        yield begun.popleft().result
