"""A training program without training; its hyperparameters control its behaviour."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dogbreed.callbacks.metric_line import metric_line


def main() -> int:
    ml = Path(os.environ["SAGEMAKER_BASE_DIR"])
    hyperparameters = json.loads((ml / "input/config/hyperparameters.json").read_text())
    model, output = Path(os.environ["SM_MODEL_DIR"]), Path(os.environ["SM_OUTPUT_DATA_DIR"])
    (output / "environment.json").write_text(json.dumps(dict(os.environ)))
    mode = hyperparameters.get("mode", "train")
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: stop(model))
    if mode == "fail":
        print("about to fail")
        return 3
    if mode == "explain":
        (ml / "output/failure").write_text("ValueError: lr is too large")
        return 1
    if mode == "forking":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (output / "child").write_text(str(child.pid))
    rate = float(hyperparameters.get("lr", "0.01"))
    for epoch in range(int(hyperparameters.get("epochs", "3"))):
        quality = 1 - 0.5 ** (epoch + 1)
        if mode != "silent":
            print(metric_line(epoch, {"val/accuracy": quality * rate, "val/loss": 1 - quality * rate}))
        time.sleep(
            float(hyperparameters.get("epoch_s", "0")) if rate >= float(hyperparameters.get("slow_below", "0")) else 10
        )
    (model / "weights.txt").write_text(f"trained with {rate}")
    return 0


def stop(model: Path) -> None:
    (model / "weights.txt").write_text("stopped")
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
