"""Dynamic batching: results reach the right request, and health is reported correctly."""

import re
import threading
import time

import numpy as np
import pytest
import torch

from dogbreed.serving.batching import Batcher, BatcherStoppedError


def image(value, count=1):
    return torch.full((count, 3, 2, 2), value, dtype=torch.uint8)


def value_of(pixels):
    return pixels[:, 0, 0, :1].numpy().astype(np.float32)


class Gate:
    """Returns each image's value, once opened."""

    def __init__(self):
        self.entered, self.opened, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, pixels):
        self.entered.set()
        self.opened.wait(60)
        self.batches.append(len(pixels))
        return value_of(pixels)


def test_batcher_requests_during_batch_form_next_batch():
    gate = Gate()
    batcher = Batcher(gate, max_batch=4)
    answers = [batcher.submit(image(0))]
    assert gate.entered.wait(60)
    answers += [batcher.submit(image(number, count)) for number, count in ((1, 1), (2, 2), (3, 1), (4, 6), (5, 1))]
    gate.opened.set()
    for number, (answer, count) in enumerate(zip(answers, (1, 1, 2, 1, 6, 1), strict=True)):
        assert answer.result(10).tolist() == [[number]] * count
    assert gate.batches == [1, 4, 4, 2, 1]  # at most four images per batch
    batcher.stop()


def test_batcher_failing_batches_reported_until_success():
    def classify(pixels):
        if pixels.max() == 9:
            raise MemoryError("out of memory")
        return value_of(pixels)

    batcher = Batcher(classify, max_batch=4)
    for _ in range(3):
        assert batcher.problem(30) is None
        with pytest.raises(MemoryError):
            batcher.submit(image(9)).result(10)
    assert batcher.problem(30) == "the last 3 batches failed"
    assert batcher.submit(image(1)).result(10).tolist() == [[1]]
    assert batcher.problem(30) is None
    batcher.stop()


def test_batcher_hung_batch_reported():
    gate = Gate()
    batcher = Batcher(gate, max_batch=4)
    answer = batcher.submit(image(1))
    assert gate.entered.wait(60)
    time.sleep(0.2)
    assert batcher.problem(30) is None
    assert re.fullmatch(r"a batch has been running for \d+ s", batcher.problem(0.1))
    gate.opened.set()
    answer.result(10)
    batcher.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_batcher_dead_thread_fails_pending_requests():
    gate = Gate()

    def classify(pixels):
        gate(pixels)
        raise SystemExit

    batcher = Batcher(classify, max_batch=1)
    first, second = batcher.submit(image(1)), batcher.submit(image(2))
    gate.opened.set()
    for answer in (first, second):
        with pytest.raises(BatcherStoppedError):
            answer.result(10)
    assert batcher.problem(30) == "the inference thread has stopped"
    with pytest.raises(BatcherStoppedError):
        batcher.submit(image(3))


def test_batcher_stop_processes_queue():
    gate = Gate()
    batcher = Batcher(gate, max_batch=1)
    answers = [batcher.submit(image(number)) for number in range(3)]
    threading.Timer(0.1, gate.opened.set).start()
    batcher.stop()
    assert [answer.result(0).tolist() for answer in answers] == [[[0]], [[1]], [[2]]]
