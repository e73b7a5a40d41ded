"""Measures the cost of the debugger: step time with and without it in one process, and the time of a report.

    python benchmarks/debugger.py                 both, about four minutes on one core
    python benchmarks/debugger.py steps           only the step times
    python benchmarks/debugger.py report          only the report of a synthetic 50-epoch run with 133 classes

ResNet18, batch 8, 64 px, one thread. The arms alternate. A ratio is the median over rounds of an arm's time divided by
the time without the debugger in the same round, so that other load on the machine cancels out; ratios are of CPU time
(of the process, with its threads) and of wall time.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import timm
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dogbreed.debugger.callbacks import debugger_callbacks
from dogbreed.debugger.record.record_writer import RecordWriter
from dogbreed.debugger.record.system_metrics_writer import SystemMetricsWriter
from dogbreed.debugger.record.thumbnails import write_jpeg
from dogbreed.debugger.report.report import write_report
from dogbreed.debugger.series import PARTS, STATISTICS
from dogbreed.system.json_lines import JsonLines

WARM_UP, STEPS, ROUNDS = 10, 50, 7
"""Warm-up steps (the debugger records all of the first ten), measured steps (one of which is recorded, as in any fifty
of a long training), and rounds per arm."""

ARMS = {
    "nothing": {},
    "tensor recorder and profiler (defaults)": {"tensors": {"enabled": True}, "profiler": {"enabled": True}},
    "smdebug, losses only, every step": {"smdebug": {"enabled": True, "save_interval": 1, "collections": ["losses"]}},
}


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("resnet18", num_classes=133)

    def training_step(self, batch, _):
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


class Clock(pl.Callback):
    """Times the steps after the warm-up, including the work of all callbacks."""

    def __init__(self) -> None:
        self.start = self.end = (0.0, 0.0)

    def on_train_batch_end(self, trainer, *_):
        now = (time.process_time(), time.perf_counter())
        if trainer.global_step == WARM_UP:
            self.start = now
        self.end = now


def seconds_a_step(config: dict, folder: Path) -> tuple[float, float]:
    """Returns (CPU, wall) seconds per step."""
    torch.manual_seed(0)
    count = 8 * (WARM_UP + STEPS)
    data = DataLoader(
        TensorDataset(torch.randn(64, 3, 64, 64).repeat(count // 64 + 1, 1, 1, 1)[:count], torch.arange(count) % 133), 8
    )
    clock = Clock()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    callbacks = [*debugger_callbacks(config, folder), clock]
    pl.Trainer(accelerator="cpu", max_epochs=1, callbacks=callbacks, **quiet).fit(Model(), data)
    cpu, wall = ((b - a) / STEPS for a, b in zip(clock.start, clock.end, strict=True))
    return cpu, wall


def steps() -> None:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS):
            for name in list(ARMS)[turn % len(ARMS) :] + list(ARMS)[: turn % len(ARMS)]:
                times[name].append(seconds_a_step(ARMS[name], Path(folder) / str(turn)))
            shown = [np.array(times[name][turn]) / times["nothing"][turn] for name in list(ARMS)[1:]]
            print(f"turn {turn + 1}:", ", ".join(f"{cpu:.3f} CPU {wall:.3f} wall" for cpu, wall in shown), flush=True)
    base = np.array(times["nothing"])
    for name, measured in times.items():
        cpu, wall = 1000 * np.median(measured, axis=0)
        ratios = np.median(np.array(measured) / base, axis=0)
        print(f"{name:42} {cpu:6.1f} ms CPU {wall:6.1f} ms wall   ratio {ratios[0]:.3f} CPU {ratios[1]:.3f} wall")


def make_run(folder: Path, epochs: int = 50, steps_an_epoch: int = 150, classes: int = 133) -> None:
    """Writes the records of a synthetic long training."""
    random = np.random.default_rng(0)
    net = timm.create_model("resnet50", num_classes=classes)
    names = [name for name, _ in net.named_parameters()]
    writer = RecordWriter(folder)
    labels = [f"{i:03}.Breed_number_{i}" for i in range(classes)]
    writer.write_settings(
        {"classes": labels, "num_classes": classes, "lr": 1e-3, "batch_size": 64, "cores": 4, "model": "resnet50"}
    )
    timings = []
    now = 1_790_000_000.0
    for step in range(epochs * steps_an_epoch):
        epoch = step // steps_an_epoch
        if step % steps_an_epoch == 0:
            writer.add_event("epoch_start", step, epoch)
        if step < 10 or step % 50 == 0:
            blocks = [
                (c, names, {s: random.lognormal(-7, 1, len(names)).tolist() for s in STATISTICS})
                for c in ("gradients", "weights")
            ]
            both = {s: random.lognormal(-7, 1, len(names)).tolist() for s in ("abs_mean", "weight_abs_mean", "abs_max")}
            samples = {str(i): random.normal(size=len(names)).tolist() for i in range(16)}
            writer.add_tensors(
                step, epoch, [*blocks, ("updates", names, both), ("samples", names, samples)], 1e-3, False
            )
        writer.add_losses([(step, epoch, 5 * np.exp(-step / 2000) + random.normal() / 20)])
        timings.append({name: abs(random.normal(0.03, 0.01)) for name in PARTS})
        if step % steps_an_epoch == steps_an_epoch - 1:
            value = 1 - np.exp(-epoch / 9)
            writer.add_metrics(
                epoch,
                step,
                {
                    "train/loss": 5 - 4 * value,
                    "val/loss": 5 - 3.5 * value,
                    "val/accuracy": 0.9 * value,
                    "val/f1": 0.88 * value,
                },
            )
    writer.close()
    columns = {name: [row[name] for row in timings] for name in PARTS}
    ends = [now + i * 0.2 for i in range(len(timings))]
    block = {
        "kind": "steps",
        "steps": list(range(len(timings))),
        "epochs": [i // steps_an_epoch for i in range(len(timings))],
    }
    lines = JsonLines(folder / "debug" / "timings.jsonl")
    lines.write({**block, "ends": ends, "parts": columns})
    lines.close()
    machine = SystemMetricsWriter(folder / "profiler-output")
    for i in range(2 * len(timings) // 5):
        machine.write(now + i / 2, [("cpu", "CPUUtilization", f"cpu{c}", random.uniform(0, 100)) for c in range(8)])
    machine.close()
    truth = np.repeat(np.arange(classes), 6)
    logits = random.normal(size=(len(truth), classes)) + 3.5 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    keys = [f"test/{labels[t]}/{i}.jpg" for i, t in enumerate(truth)]
    index = np.arange(len(truth))
    arrays = {"probabilities": probabilities.astype(np.float16), "labels": truth, "indices": index}
    np.savez_compressed(
        folder / "debug" / "predictions-test.npz", classes=np.array(labels), keys=np.array(keys), **arrays
    )
    for i in np.flatnonzero(probabilities.argmax(axis=1) != truth)[:48]:
        image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)  # noise gives the largest JPEG
        write_jpeg(folder / "debug" / "thumbs" / f"test-{i}.jpg", image)


def report() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder))
        start = time.perf_counter()
        written = write_report(folder, print_findings=False)
        seconds = time.perf_counter() - start
        size = f"{seconds:.1f} s, {written.html.stat().st_size / 1e6:.2f} MB"
        print(f"report of 50 epochs, 7500 steps, 161 tensors, 133 classes: {size}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or ["steps", "report"]
    for part in chosen:
        {"steps": steps, "report": report}[part]()
