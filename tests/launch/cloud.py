"""What the tests of AWS share: settings that ask nothing of the SDK, a stand-in job, a service with faults."""

import signal
import time
from pathlib import Path

from launch.local.api.errors import ServiceError

ROLE = "arn:aws:iam::123456789012:role/jobs"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
BUCKET = "dogs-and-jobs"
EXPLICIT = [f"backend.role={ROLE}", f"backend.image='{IMAGE}'", f"backend.bucket={BUCKET}", "backend=sagemaker"]
"""With these nothing is asked of the SDK."""

STAND_IN = """
import json, math, os, signal, sys, time
from pathlib import Path
from dogbreed.callbacks.metric_line import metric_line
base = Path(os.environ["SAGEMAKER_BASE_DIR"])
hp = json.loads((base / "input/config/hyperparameters.json").read_text())
fixed = json.loads(hp["overrides"])
lr = float(hp.get("lr") or next(o.partition("=")[2] for o in fixed if o.startswith("lr=")))
if {"seed=14", "seed=15"} & set(fixed):
    if "seed=15" in fixed and "-001-" in os.environ["TRAINING_JOB_NAME"]:
        others = "*-002-*/state.json"  # the later trial is the first to fail, and is seen to be
        while not any('"Failed"' in path.read_text() for path in base.parents[1].glob(others)):
            time.sleep(0.05)
        time.sleep(2)
    (base / "output/failure").write_text("CUDA error: out of memory")
    sys.exit(1)
if "seed=21" in fixed:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("hello from", hp["sagemaker_program"] if "sagemaker_program" in hp else "this machine", flush=True)
for epoch in range(3):
    print(metric_line(epoch, {"val/accuracy": 1 / (1 + abs(math.log10(lr) + 3)) * (epoch + 1) / 3}), flush=True)
    time.sleep(20 if {"seed=20", "seed=21"} & set(fixed) else 0.02)
"""
"""A training of a few lines in place of a network, under the real container contract."""


class Faulty:
    """LocalSageMaker with faults: operation to what happens at its next calls, an error code or seconds of silence."""

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


class Interrupting:
    """A client during whose first create request Ctrl-C is pressed."""

    def __init__(self, client):
        self.client = client
        self.pressed = False

    def __getattr__(self, name):
        call = getattr(self.client, name)
        if self.pressed or not name.startswith("create_"):
            return call

        def create(**request):
            answer = call(**request)
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
            return answer

        return create


def wait_for(condition, seconds=120):
    """Returns when `condition()` holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def written(path: Path) -> str:
    """Returns what a file holds, nothing where it is not there yet."""
    return path.read_text() if path.is_file() else ""
