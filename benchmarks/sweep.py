"""Compares a sweep of heads on cached features with the same sweep that runs the backbone in every epoch.

    python -m benchmarks.sweep sweep       the whole sweep from an empty folder: time, memory, and its one pass
    python -m benchmarks.sweep plain       a plain PyTorch loop over 600 of the images
    python -m benchmarks.sweep off         one trial without cached features; the rest is extrapolated
    python -m benchmarks.sweep summary     the ratios of the results in benchmarks/results/sweep.json

The sweep is experiment=course_e (optimizer, batch size, epochs, lr) with MobileNetV2 and the images and weights in
../shared. Every part is short, so that it can run on an otherwise idle machine; OUT=FILE writes results to another
file. Measure in the environment of `make tune`: if SciPy is installed, as by the SageMaker SDK, torchmetrics imports it
and the sweep starts later.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
OUT = Path(os.environ.get("OUT", ROOT / "benchmarks" / "results" / "sweep.json"))
TRIALS = 25
OVERLAY = "{mean:[0.5,0.5,0.5],std:[0.5,0.5,0.5],crop_pct:1.0}"
MODEL = [
    "model=mobilenetv2", f"model.weights={SHARED}/weights/mobilenetv2_100.safetensors", "+model.kwargs.pad_type=same",
    f"+model.kwargs.pretrained_cfg_overlay={OVERLAY}", "data=folder", f"data.url={SHARED}/data", "data.augment=false",
    "trainer=cpu",
]  # fmt: skip


def run(module: str, *typed: str) -> tuple[float, float]:
    """Returns the seconds and the peak memory of all processes of a command, MB."""
    began, peak = time.perf_counter(), 0.0
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", module, *typed]
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while True:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, sum(map(_memory_mb, [process, *process.children(recursive=True)])))
            with suppress(psutil.TimeoutExpired):
                process.wait(10.0)  # polling slows the sweep down
                break
        seconds = time.perf_counter() - began
        if process.returncode:
            log.seek(0)
            sys.exit(log.read())
    return seconds, peak


def _memory_mb(process: psutil.Process) -> float:
    """Returns the proportional memory (PSS) of a process, MB; shared memory is divided among its users."""
    try:
        return process.memory_full_info().pss / 2**20
    except psutil.Error:  # the process has ended
        return 0.0


def sweep() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        experiment = ["experiment=course_e", *MODEL, f"tuner.max_jobs={TRIALS}", "tuner.max_parallel_jobs=2"]
        seconds, peak_mb = run(
            "launch.tune", *experiment, "tuner.strategy=Random", f"backend.root={folder}", "name=bench"
        )
        logs = [path.read_text() for path in sorted(Path(folder).glob("bench/bench-*/log.txt"))]
        states = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("bench/bench-*/state.json"))]
    (computed,) = (log for log in logs if "computing the features" in log)  # the others waited for it
    found = re.search(r"features of (\d+) images in ([\d.]+) s", computed)
    assert found is not None
    done = [state for state in states if state["status"] == "Completed"]
    return {
        "trials": len(done),
        "seconds": seconds,
        "peak_mb": round(peak_mb),
        "pass_s": float(found[2]),
        "images": int(found[1]),
        "epochs": [int(state["tuned"]["epochs"]) for state in done],
        "trial_s": [round(state["ended"] - state["created"], 2) for state in done],
    }


def plain() -> dict[str, Any]:
    """A plain loop: torchvision's folder and transforms, loader workers, the network in eval mode, no gradients."""
    import timm
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(os.cpu_count() or 1)
    net = timm.create_model("mobilenetv2_100", num_classes=0, pad_type="same").eval()
    steps = [
        transforms.Resize(224),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    images = datasets.ImageFolder(str(SHARED / "data" / "test"), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(images, batch_size=32, num_workers=2)
    began, count = time.perf_counter(), 0
    with torch.no_grad():
        for images, _ in loader:
            net(images)
            count += len(images)
    return {"images": count, "seconds": time.perf_counter() - began}


def off() -> dict[str, Any]:
    """Runs one trial of one epoch over a part of the images."""
    limits = ["+trainer.limit_train_batches=24", "+trainer.limit_val_batches=8", "+trainer.limit_test_batches=8"]
    with tempfile.TemporaryDirectory() as folder:
        fixed = [*MODEL, "features=off", "epochs=1", "batch_size=32", "debugger.images.enabled=false"]
        whole, _ = run("dogbreed.train", *fixed, *limits, f"output_dir={folder}/a")
        single = [re.sub("=.*", "=1", limit) for limit in limits]
        least, _ = run("dogbreed.train", *fixed, *single, f"output_dir={folder}/b")
    return {"image_s": (whole - least) / (32 * (24 + 8 + 8 - 3)), "start_s": least}


def summary(known: dict[str, Any]) -> dict[str, Any]:
    mine, loop, without = known["sweep"], known["plain"], known["off"]
    train, others = 0.8 * mine["images"], 0.1 * mine["images"]
    alone = sum(
        without["start_s"] + without["image_s"] * (epochs * (train + others) + others) for epochs in mine["epochs"]
    )
    rate, plain_rate = mine["images"] / mine["pass_s"], loop["images"] / loop["seconds"]
    return {
        "sweep_s": round(mine["seconds"], 1),
        "peak_mb": mine["peak_mb"],
        "pass_s": mine["pass_s"],
        "sweep_over_pass": round(mine["seconds"] / mine["pass_s"], 2),
        "without_s": round(alone),
        "times_cheaper": round(alone / mine["seconds"], 1),
        "images_per_s": round(rate, 1),
        "plain_images_per_s": round(plain_rate, 1),
        "times_plain": round(rate / plain_rate, 2),
        "median_trial_s": sorted(mine["trial_s"])[len(mine["trial_s"]) // 2],
    }


def main(part: str) -> None:
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    known[part] = summary(known) if part == "summary" else {"sweep": sweep, "plain": plain, "off": off}[part]()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(known[part], indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
