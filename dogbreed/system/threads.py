"""Thread pools whose threads call torch in parallel."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")


def single_threaded_pool(num_threads: int, name: str) -> ThreadPoolExecutor:
    """Returns a pool of threads in which torch starts no further threads; other threads are unaffected.

    torch's intra-op parallelism costs more CPU than it saves if images are already processed in parallel.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, name, _disable_intra_op_threads)
    all_started = threading.Barrier(num_threads)
    wait([pool.submit(all_started.wait) for _ in range(num_threads)])
    torch.set_num_threads(before)
    return pool


def _disable_intra_op_threads() -> None:
    torch.set_num_threads(1)  # for this thread, and for threads that have not called get_num_threads yet
    torch.get_num_threads()  # fixes this thread's value


def run_ahead(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], T]], depth: int) -> Iterator[Callable[[], T]]:
    """Yields, in order, a function that waits for each job's result, with up to `depth` further jobs running."""
    running: deque[Future[T]] = deque()
    for job in jobs:
        running.append(pool.submit(job))
        if len(running) > depth:
            yield running.popleft().result
    while running:
        yield running.popleft().result
