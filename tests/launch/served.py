"""Trainings whose stand-in model can be served, images for the stand-in server, and its predictions."""

import csv
import os
import signal
import threading
from pathlib import Path

from launch.runs.polling import Interrupted
from tests.launch.local_jobs import eventually, pack_model, put_training


def train(name, status="Completed", **card):
    """Writes the folder of a training; `card` controls how the stand-in server behaves."""
    folder = Path("outputs") / name
    put_training(folder, status)
    pack_model(folder, other=name, **card)


def images(folder, **texts):
    """Writes images for the stand-in server: name, with `__` for folders, to the prediction."""
    for name, text in texts.items():
        path = Path(folder) / f"{name.replace('__', '/')}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def rows(path="predictions.csv"):
    with Path(path).open() as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def interrupt_when(condition, number=signal.SIGINT):
    """Sends this process a signal in a thread once `condition()` holds and a command handles the signal."""

    def is_handled():  # at any other time the signal would end the test run
        return isinstance(getattr(signal.getsignal(number), "__self__", None), Interrupted)

    def wait():
        eventually(lambda: condition() and is_handled())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
