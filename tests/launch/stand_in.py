"""A stand-in for a training under the real container contract: prints the metrics of three epochs.

The environment variable DOGBREED_STAND_IN selects its behaviour; the fixture `stand_in_does` sets it:

    out_of_memory               fails with a CUDA error
    out_of_memory_second_first  the same, the second trial of a sweep before the first
    large_lr_fails              fails if lr > 0.01
    slow                        20 s per epoch
    large_lr_slow               20 s per epoch if lr > 0.003
    ignores_sigterm             20 s per epoch, SIGTERM without effect
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from dogbreed.callbacks.metric_line import metric_line

EPOCH_S = 0.02
SLOW_EPOCH_S = 20.0

base = Path(os.environ["SAGEMAKER_BASE_DIR"])
behaviour = os.environ.get("DOGBREED_STAND_IN", "")
hyperparameters = json.loads((base / "input/config/hyperparameters.json").read_text())
fixed = dict(override.split("=", 1) for override in json.loads(hyperparameters["overrides"]))
lr = float(hyperparameters.get("lr") or fixed["lr"])


def fail(reason: str) -> None:
    (base / "output/failure").write_text(reason)
    sys.exit(1)


def wait_for_failure_of_second_trial() -> None:
    while not any('"Failed"' in path.read_text() for path in base.parents[1].glob("*-002-*/state.json")):
        time.sleep(0.05)
    time.sleep(2)  # until the launcher has polled and reported it


if behaviour == "out_of_memory_second_first" and "-001-" in os.environ["TRAINING_JOB_NAME"]:
    wait_for_failure_of_second_trial()
if behaviour.startswith("out_of_memory"):
    fail("CUDA error: out of memory")
if behaviour == "large_lr_fails" and lr > 0.01:
    fail(f"lr={lr} is too large, see [/data/x]")
if behaviour == "ignores_sigterm":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
slow = behaviour in ("slow", "ignores_sigterm") or (behaviour == "large_lr_slow" and lr > 0.003)
print("hello from", hyperparameters.get("sagemaker_program", "this machine"), flush=True)
for epoch in range(3):
    print(metric_line(epoch, {"val/accuracy": 1 / (1 + abs(math.log10(lr) + 3)) * (epoch + 1) / 3}), flush=True)
    time.sleep(SLOW_EPOCH_S if slow else EPOCH_S)
