"""SystemProfiler: what the machine does every half second, and where the time of a step goes.

trainer = Trainer(callbacks=[SystemProfiler("outputs/run"), ...])
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytorch_lightning as pl
import torch

from dogbreed.debugger import files
from dogbreed.debugger.findings import Status
from dogbreed.debugger.record.step_timer import StepTimer
from dogbreed.debugger.record.system_metrics_writer import SystemMetricsWriter
from dogbreed.debugger.record.system_sampler import Machine, SystemSampler
from dogbreed.debugger.rules.stalls import stalled_training
from dogbreed.debugger.series import PARTS
from dogbreed.errors import UserError
from dogbreed.system.json_lines import JsonLines

log = logging.getLogger(__name__)

_INTERVALS_MS = (100, 200, 500, 1000, 5000, 60000)
"""The intervals that SageMaker's ProfilerConfig allows."""

_BLOCK = 50
"""Steps that are written together."""


class SystemProfiler(pl.Callback):
    """Watches the machine and the clock while a training runs; process 0 of each machine does.

    One sample costs about 0.3 ms of CPU time, one step a few microseconds for each action that Lightning announces.

    Args:
        folder: The run's folder; the profile of an earlier run in it is removed when a training begins at step 0.
        interval_ms: Milliseconds between two samples: 100, 200, 500, 1000, 5000 or 60000.
        trace_steps: Steps that `torch.profiler` traces into `debug/traces` (0: none); those steps are slow.
        trace_start: First traced step.
        stall_s: Seconds without a step after which a line says that the training has stalled.

    Raises:
        UserError: another interval.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        interval_ms: int = 500,
        trace_steps: int = 0,
        trace_start: int = 10,
        stall_s: float = 1800.0,
    ) -> None:
        if interval_ms not in _INTERVALS_MS:
            allowed = ", ".join(map(str, _INTERVALS_MS))
            raise UserError(f"debugger.profiler.interval_ms={interval_ms} is not allowed; allowed: {allowed}")
        self.folder = Path(folder)
        self.interval_ms = interval_ms
        self.trace_steps = trace_steps
        self.trace_start = trace_start
        self.stall_s = stall_s
        self._sampler: SystemSampler | None = None
        self._timer: StepTimer | None = None
        self._lines = JsonLines(self.folder / files.DEBUG / files.TIMINGS)
        self._rows: list[tuple[int, int, float, dict[str, float]]] = []
        self._phases = dict.fromkeys(("train", "validation", "test", "other"), 0.0)
        self._phase, self._since = "other", time.time()
        self._started = _process_start()
        self._heartbeat = 0.0
        self._said_stalled = False
        self._initialization_s: float | None = None
        self._steps = 0
        self._fits = 0
        self._trace: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begins to listen to Lightning's actions."""
        if trainer.local_rank == 0 and self._timer is None:
            self._timer = StepTimer(_of(trainer).profiler)
            _of(trainer).profiler = self._timer

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to watch the machine."""
        if trainer.local_rank != 0 or self._sampler is not None:
            return
        if self._fits == 0 and trainer.global_step == 0 and trainer.ckpt_path is None:
            files.clear_profiler(self.folder)
        self._fits += 1
        node = os.environ.get("SM_CURRENT_HOST") or f"algo-{trainer.node_rank + 1}"
        where = SystemMetricsWriter(self.folder / files.PROFILER_OUTPUT, node)
        self._sampler = SystemSampler(where, self.interval_ms / 1000, Machine(), self._watch)
        self._heartbeat = time.time()
        self._sampler.start()

    def _watch(self, now: float) -> None:
        outcome = stalled_training(np.array([self._heartbeat, now]), threshold=self.stall_s)
        if outcome.status is Status.ISSUE and not self._said_stalled:
            self._said_stalled = True
            print("finding=StalledTraining status=issue count=1", flush=True)
            log.warning("no step for %.0f s", now - self._heartbeat)
        self._said_stalled = self._said_stalled and outcome.status is Status.ISSUE

    def _enter(self, phase: str) -> None:
        now = time.time()
        self._phases[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A phase of training begins; what came before is no part of its first step."""
        if self._timer is not None:
            self._timer.take()
            self._enter("train")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts a trace where its step has come."""
        if self._timer is not None and self.trace_steps and self._steps == self.trace_start:
            self._trace = torch.profiler.profile(record_shapes=True)
            self._trace.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the step's times."""
        if self._timer is None:
            return
        now = time.time()
        self._heartbeat = now
        if self._initialization_s is None:
            self._initialization_s = now - self._started
        self._rows.append((self._steps, trainer.current_epoch, now, self._timer.take()))
        self._steps += 1
        if len(self._rows) >= _BLOCK:
            self._write()
        if self._trace is not None and self._steps == self.trace_start + self.trace_steps:
            self._finish_trace()

    def _finish_trace(self) -> None:
        self._trace.stop()
        folder = self.folder / files.DEBUG / "traces"
        folder.mkdir(parents=True, exist_ok=True)
        self._trace.export_chrome_trace(str(folder / f"trace-{self.trace_start}.json"))
        (folder / "operators.txt").write_text(self._trace.key_averages().table(row_limit=30), encoding="utf-8")
        self._trace = None

    def _write(self) -> None:
        if not self._rows:
            return
        steps, epochs, ends, parts = zip(*self._rows, strict=True)
        columns = {name: files.rounded([part[name] for part in parts], 4) for name in PARTS}
        row = {"kind": "steps", "steps": steps, "epochs": epochs, "ends": [round(end, 3) for end in ends]}
        self._lines.write({**row, "parts": columns})
        self._lines.flush()
        self._rows = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A phase of validation begins."""
        self._enter("validation")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation is over; it is no part of the next step."""
        self._heartbeat = time.time()
        if self._timer is not None:
            self._timer.take()
        # `trainer.training` is not set again yet.
        in_training = trainer.state.fn == "fit" and not trainer.sanity_checking
        self._enter("train" if in_training else "other")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what is left."""
        if self._timer is not None:
            if self._trace is not None:
                self._finish_trace()
            self._write()
            self._enter("other")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A phase of test begins."""
        self._enter("test")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Test is over."""
        self._enter("other")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stops watching; the trainer gets its own profiler back."""
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        if self._timer is None:
            return
        self._write()
        self._enter("other")
        settings = {} if self._initialization_s is None else {"initialization_s": round(self._initialization_s, 2)}
        self._lines.write({"kind": "phases", "seconds": self._phases, "settings": settings})
        self._lines.close()
        _of(trainer).profiler, self._timer = self._timer.inner, None


def _of(trainer: pl.Trainer) -> Any:
    # Lightning's Trainer sets its profiler in a connector, so that type checkers do not know of it.
    return trainer


def _process_start() -> float:
    """Returns when the work began: with the process, in a notebook now, seconds since the epoch."""
    interactive = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    return time.time() if interactive else psutil.Process(os.getpid()).create_time()
