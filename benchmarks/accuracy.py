"""Accuracy on ../shared/data with the weights in ../shared: ours beside the peers, and what each cost.

    python -m benchmarks.accuracy fastai      its fine_tune, at its defaults; so with timm and sklearn
    python -m benchmarks.accuracy head        ours, a head alone; so with pretrained (experiment=best: a head near the
                                              classifier that came with the weights) and finetune (from there on)
    python -m benchmarks.accuracy summary     the table, of what the parts have left in benchmarks/results/accuracy.json

Cost is processor time, of all processes of a part and of one thread in each, so that it does not matter what else the
machine does. OUT=FILE puts results elsewhere. fastai is best installed beside this project, not into its environment:

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
"""What is tried of each, to be chosen among on valid."""


def run(*typed: str) -> tuple[str, float]:
    """Returns what a command printed on standard output, and the processor time it took, s."""
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
    """Returns what benchmarks.finetuners found of a peer."""
    with tempfile.TemporaryDirectory() as folder:
        weights = WEIGHTS
        if name != "sklearn":
            weights = Path(folder) / "weights.safetensors"
            run("benchmarks.finetuners", "weights", str(weights))
        printed, seconds = run("benchmarks.finetuners", name, str(weights), *epochs)
    return {**json.loads(printed.splitlines()[-1]), "cpu_s": round(seconds, 1)}


def ours(name: str) -> dict[str, Any]:
    """Returns the training that is best on valid, and the cost of all that were tried, from no kept features on."""
    seconds, best = 0.0, dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DOGBREED_FEATURES"] = f"{folder}/features"
        for number, typed in enumerate(OURS[name]):
            output = Path(folder) / str(number)
            seconds += run("dogbreed.train", *MODEL, *typed, "debugger=off", f"output_dir={output}")[1]
            results = json.loads((output / "results.json").read_text())
            found = {"valid": results["best"]["val/accuracy"], "valid_loss": results["best"]["val/loss"]}
            if not best or (-found["valid"], found["valid_loss"]) < (-best["valid"], best["valid_loss"]):
                best = {**found, "test": results["test"]["test/accuracy"], "settings": " ".join(typed)}
    return {**best, "cpu_s": round(seconds, 1)}


def summary(known: dict[str, Any]) -> str:
    """Returns the table, best on test last."""
    rows = sorted((part for part in known.items() if part[0] in (*PEERS, *OURS)), key=lambda part: part[1]["test"])
    lines = ["| | valid | test | processor time |", "|---|---|---|---|"]
    for name, found in rows:
        lines.append(f"| {name} | {found['valid']:.1%} | {found['test']:.1%} | {found['cpu_s']:.0f} s |")
    return "\n".join(lines)


def main(part: str, *typed: str) -> None:
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    if part == "summary":
        print(summary(known))
        return
    result = ours(part) if part in OURS else peer(part, *typed)
    known = json.loads(OUT.read_text()) if OUT.exists() else {}  # once more: parts may run side by side
    known[part] = result
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
