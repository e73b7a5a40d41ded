"""Accuracy on ../shared/data with the weights in ../shared: ours beside the peers, and what each cost.

    python -m benchmarks.accuracy fastai      its fine_tune, at its defaults; so with timm and sklearn
    python -m benchmarks.accuracy head        ours, a head alone; so with finetune
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

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
OUT = Path(os.environ.get("OUT", ROOT / "benchmarks" / "results" / "accuracy.json"))
WEIGHTS = SHARED / "weights" / "mobilenetv2_100.safetensors"
PEERS = ("fastai", "timm", "sklearn")


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


def main(part: str, *typed: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        weights = WEIGHTS
        if part in ("fastai", "timm"):
            weights = Path(folder) / "weights.safetensors"
            run("benchmarks.finetuners", "weights", str(weights))
        printed, seconds = run("benchmarks.finetuners", part, str(weights), *typed)
    result: dict[str, Any] = {**json.loads(printed.splitlines()[-1]), "cpu_s": round(seconds, 1)}
    known = json.loads(OUT.read_text()) if OUT.exists() else {}  # after the run: parts may run side by side
    known[part] = result
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
