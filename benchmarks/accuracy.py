"""Compares accuracy and cost with peers on ../shared/data, with the weights in ../shared.

    python -m benchmarks.accuracy fastai      fine_tune with its defaults; likewise timm and sklearn
    python -m benchmarks.accuracy head        ours, only the head; likewise pretrained (experiment=best: a head near the
                                              classifier of the weights) and finetune (starting from that)
    python -m benchmarks.accuracy options     one added option at a time, or the named ones
    python -m benchmarks.accuracy summary     the table of the results in benchmarks/results/accuracy.json

Cost is CPU time of all processes of a part, with one thread each, so it does not depend on other load on the machine.
OUT=FILE writes the results to another file. Install fastai into a separate environment that also sees this project's:

    python -m venv PEERS
    python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > PEERS/lib/python3.X/site-packages/base.pth
    PEERS/bin/pip install fastai scikit-learn
    PEERS/bin/python -m benchmarks.accuracy fastai
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.sweep import MODEL, SHARED

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(os.environ.get("OUT", ROOT / "benchmarks" / "results" / "accuracy.json"))
WEIGHTS = SHARED / "weights" / "mobilenetv2_100.safetensors"
PEERS = ("fastai", "timm", "sklearn")
HEAD = ("finetune=head", "data.augment=false", "tta=true", "optimizer=lbfgs")
FINETUNE = (
    "finetune=gradual", "head_start=pretrained", "weight_decay=0.1", "freeze_norms=true", "tta=true", "averaging=ema",
    "averaging_decay=0.98", "unfreeze_epoch=0", "unfreeze_every=1", "backbone_lr_factor=1", "epochs=2",
    "data.augment=true", "data.crop_area=0.6", "trainer.precision=bf16-mixed", "channels_last=true",
)  # fmt: skip
OURS = {
    "head": [(*HEAD, f"weight_decay={decay}") for decay in (0.01, 0.02, 0.04)],
    "pretrained": [("experiment=best", f"weight_decay={decay}") for decay in (0.03, 0.1, 0.3)],
    "finetune": [(*FINETUNE, f"lr={lr}") for lr in (1e-5, 3e-5)],
}
"""Settings tried for each peer; the validation split selects one."""
_ALL = (
    "finetune=full", "head_start=solved", "weight_decay=0.01", "freeze_norms=true", "lr=1e-4", "epochs=2",
    "data.augment=true", "data.crop_area=0.6", "trainer.precision=bf16-mixed", "channels_last=true",
)  # fmt: skip
_HEAD = ("finetune=head", "data.augment=false", "lr=0.003", "epochs=20")
OPTIONS = {
    "all layers": (_ALL, ("", "mixup=0.2", "cutmix=1.0", "data.randaugment=9", "layer_decay=0.8", "averaging=swa")),
    "head": (_HEAD, ("", "averaging=ema", "averaging=swa", "label_smoothing=0.1", "tta=true", "data.balanced=true")),
}
"""Base settings of each training, and the options added to them one at a time."""


def run(*typed: str) -> tuple[str, float]:
    """Returns a command's standard output and its CPU time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", *typed], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peer(name: str, *epochs: str) -> dict[str, Any]:
    """Returns the results of a peer from benchmarks.finetuners."""
    with tempfile.TemporaryDirectory() as folder:
        weights = WEIGHTS
        if name != "sklearn":
            weights = Path(folder) / "weights.safetensors"
            run("benchmarks.finetuners", "weights", str(weights))
        printed, seconds = run("benchmarks.finetuners", name, str(weights), *epochs)
    return {**json.loads(printed.splitlines()[-1]), "cpu_s": round(seconds, 1)}


def ours(name: str) -> dict[str, Any]:
    """Returns the best training on the validation split, and the cost of all, starting without cached features."""
    with tempfile.TemporaryDirectory() as features:
        os.environ["DOGBREED_FEATURES"] = features
        found = [train(*typed) for typed in OURS[name]]
    best = min(found, key=lambda one: (-one["valid"], one["valid_loss"]))
    return {**best, "cpu_s": round(sum(one["cpu_s"] for one in found), 1)}


def train(*typed: str) -> dict[str, Any]:
    """Returns the results of one of our trainings."""
    with tempfile.TemporaryDirectory() as folder:
        _, seconds = run("dogbreed.train", *MODEL, *typed, "debugger=off", f"output_dir={folder}")
        results = json.loads((Path(folder) / "results.json").read_text())
    return {
        "valid": results["best"]["val/accuracy"],
        "valid_loss": results["best"]["val/loss"],
        "test": results["test"]["test/accuracy"],
        "settings": " ".join(typed),
        "cpu_s": round(seconds, 1),
    }


def options(*wanted: str) -> dict[str, Any]:
    """Returns the results by training and option, of all options or of the wanted ones."""
    found: dict[str, Any] = {}
    for kind, (fixed, added) in OPTIONS.items():
        for option in added:
            if not wanted or f"{kind}: {option}" in wanted:
                found[f"{kind}: {option}"] = train(*fixed, *filter(None, [option]))
                print(json.dumps(found), file=sys.stderr)
    return found


def summary(known: dict[str, Any]) -> str:
    """Returns the table: peers and ours by test accuracy, ascending, then the options."""
    rows = sorted((part for part in known.items() if part[0] in (*PEERS, *OURS)), key=lambda part: part[1]["test"])
    lines = ["| | valid | test | CPU time |", "|---|---|---|---|"]
    for name, found in [*rows, *known.get("options", {}).items()]:
        lines.append(f"| {name} | {found['valid']:.1%} | {found['test']:.1%} | {found['cpu_s']:.0f} s |")
    return "\n".join(lines)


def main(part: str, *typed: str) -> None:
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    if part == "summary":
        print(summary(known))
        return
    result = options(*typed) if part == "options" else ours(part) if part in OURS else peer(part, *typed)
    known = json.loads(OUT.read_text()) if OUT.exists() else {}  # read again: parts may run in parallel
    known[part] = known.get(part, {}) | result if part == "options" else result
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
