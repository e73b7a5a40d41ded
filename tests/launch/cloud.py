"""Shared by the tests of AWS: settings that need no SDK, a stand-in job, a service with injected faults."""

import signal
import sys
import time
from pathlib import Path

from launch.local.api.errors import ServiceError

ROLE = "arn:aws:iam::123456789012:role/jobs"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
BUCKET = "dogs-and-jobs"
EXPLICIT = [f"backend.role={ROLE}", f"backend.image='{IMAGE}'", f"backend.bucket={BUCKET}", "backend=sagemaker"]
"""Settings with which the SDK is not used."""

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
"""Command of a job without training."""


class Faulty:
    """LocalSageMaker with faults: operation to the faults of its next calls, error codes or delays in seconds."""

    def __init__(self, service):
        self.service = service
        self.root = service.root
        self.faults = {}
        self.requests = []
        self.times = []

    def answer(self, operation, request):
        self.requests.append((operation, request))
        self.times.append(time.time())
        fault = self.faults[operation].pop(0) if self.faults.get(operation) else None
        if isinstance(fault, (int, float)):
            time.sleep(fault)
        elif fault is not None:
            raise ServiceError(*fault) if isinstance(fault, tuple) else ServiceError(fault, f"{fault} was injected")
        return self.service.answer(operation, request)

    def sent(self, operation):
        return [request for name, request in self.requests if name == operation]


class _Interrupting:
    """A client whose first create request is followed by Ctrl-C."""

    def __init__(self, client):
        self.client = client
        self.pressed = False

    def __getattr__(self, name):
        call = getattr(self.client, name)
        if self.pressed or not name.startswith("create_"):
            return call

        def create(**request):
            response = call(**request)
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
            return response

        return create


def interrupt_create(monkeypatch, backend_class):
    """Presses Ctrl-C during the first create request of each client of a backend."""
    make = backend_class.client
    monkeypatch.setattr(backend_class, "client", lambda self: _Interrupting(make(self)))


def wait_for(condition, seconds=120):
    """Waits until `condition()` holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def written(path: Path) -> str:
    """Returns the content of a file; empty if it does not exist yet."""
    return path.read_text() if path.is_file() else ""
