"""Threads that compute with torch in parallel."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch

from dogbreed.system.threads import run_ahead, single_threaded_pool


def test_pool_threads_are_single_threaded_and_others_are_not() -> None:
    """A pool that decodes images does not change the number of threads of the training or of later ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded_pool(3, "decode") as pool:
            inside = [pool.submit(torch.get_num_threads).result() for _ in range(6)]
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (set(inside), later, torch.get_num_threads()) == ({1}, [2], 2)
    finally:
        torch.set_num_threads(before)


def test_results_are_in_order_and_started_jobs_are_bounded() -> None:
    drawn: list[int] = []

    def jobs():
        for number in range(20):
            drawn.append(number)
            yield partial(pow, number, 2)

    with single_threaded_pool(2, "square") as pool:
        results = run_ahead(pool, jobs(), 4)
        assert next(results)() == 0
        assert drawn == [0, 1, 2, 3, 4]
        assert [result() for result in results] == [number**2 for number in range(1, 20)]


def test_failed_job_raises_when_its_result_is_read() -> None:
    with single_threaded_pool(1, "divide") as pool:
        good, bad, other = run_ahead(pool, [partial(divmod, 7, number) for number in (2, 0, 7)], 2)
        assert (good(), other()) == ((3, 1), (1, 0))
        with pytest.raises(ZeroDivisionError):
            bad()
