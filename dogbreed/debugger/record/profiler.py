"""SystemProfiler: samples the machine every half second, and measures where the time of a training step goes.

trainer = Trainer(callbacks=[SystemProfiler("outputs/run"), ...])
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl
import torch

from dogbreed.debugger import files
from dogbreed.debugger.record.recorder import Recorder, safe_hook
from dogbreed.debugger.record.step_timer import StepTimer
from dogbreed.debugger.record.system_metrics_writer import SystemMetricsWriter
from dogbreed.debugger.record.system_sampler import Machine, SystemSampler
from dogbreed.debugger.record.timings_writer import TimingsWriter
from dogbreed.debugger.settings import ProfilerSettings
from dogbreed.system.settings import check

log = logging.getLogger(__name__)


class SystemProfiler(Recorder):
    """Samples the machine and times the steps of a training, in process 0 of each machine.

    While `fit` runs, `trainer.profiler` is a `StepTimer` that forwards every action to the profiler given to the
    `Trainer`; that profiler is restored when the fit ends, also after an exception.

    Args:
        folder: The run's folder. The profile of an earlier run in it is removed when a training starts at step 0.
        interval_ms: Milliseconds between samples: 100, 200, 500, 1000, 5000 or 60000.
        trace_steps: Steps that `torch.profiler` traces into `debug/traces` (0: none); those steps are slow.
        trace_start: First traced step.
        stall_s: Seconds without a training step or validation batch after which a stall is logged.

    Raises:
        UserError: another interval.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        interval_ms: int = ProfilerSettings.interval_ms,
        trace_steps: int = ProfilerSettings.trace_steps,
        trace_start: int = ProfilerSettings.trace_start,
        stall_s: float = ProfilerSettings.stall_s,
    ) -> None:
        check(ProfilerSettings, {"interval_ms": interval_ms}, "debugger.profiler.")
        self.folder = Path(folder)
        self.interval_ms = interval_ms
        self.trace_steps = trace_steps
        self.trace_start = trace_start
        self.stall_s = stall_s
        self._sampler: SystemSampler | None = None
        self._timer: StepTimer | None = None
        self._trace: Any = None
        self._timings = TimingsWriter(self.folder, time.time())
        self._started = _process_start()
        self._initialization_s: float | None = None
        self._heartbeat = 0.0
        self._is_stalled = False
        self._num_steps = self._num_fits = 0

    @safe_hook
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts sampling the machine and timing Lightning's actions."""
        if trainer.local_rank != 0 or self._sampler is not None:
            return
        if self._num_fits == 0 and trainer.global_step == 0 and trainer.ckpt_path is None:
            files.clear_profiler(self.folder)
        self._num_fits += 1
        # Not in `setup`: Lightning prepares the profiler given to the Trainer after that.
        self._timer = StepTimer(trainer.profiler)  # type: ignore[attr-defined]
        trainer.profiler = self._timer  # type: ignore[attr-defined]
        node = os.environ.get("SM_CURRENT_HOST") or f"algo-{trainer.node_rank + 1}"
        writer = SystemMetricsWriter(self.folder / files.PROFILER_OUTPUT, node)
        self._heartbeat = time.time()
        self._sampler = SystemSampler(writer, self.interval_ms / 1000, Machine(), self._check_alive)
        self._sampler.start()

    def _check_alive(self, now: float) -> None:
        """Logs once that the training has stalled, until it continues."""
        is_stalled = now - self._heartbeat > self.stall_s
        if is_stalled and not self._is_stalled:
            print("finding=StalledTraining status=issue count=1", flush=True)
            log.warning("no step for %.0f s", now - self._heartbeat)
        self._is_stalled = is_stalled

    @safe_hook
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the phase of training; earlier time does not count to its first step."""
        if self._timer is not None:
            self._timer.take()
            self._timings.enter_phase("train", time.time())

    @safe_hook
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the trace at its first step."""
        if self._timer is not None and self.trace_steps and self._num_steps == self.trace_start:
            self._trace = torch.profiler.profile(record_shapes=True)
            self._trace.start()

    @safe_hook
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records the step's times."""
        if self._timer is None:
            return
        self._heartbeat = now = time.time()
        if self._initialization_s is None:
            self._initialization_s = now - self._started
        self._timings.add_step(self._num_steps, trainer.current_epoch, now, self._timer.take())
        self._num_steps += 1
        if self._num_steps == self.trace_start + self.trace_steps:
            self._finish_trace()

    def _finish_trace(self) -> None:
        trace, self._trace = self._trace, None
        if trace is None:
            return
        trace.stop()
        folder = self.folder / files.DEBUG / "traces"
        folder.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(folder / f"trace-{self.trace_start}.json"))
        (folder / "operators.txt").write_text(trace.key_averages().table(row_limit=30), encoding="utf-8")

    @safe_hook
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts a phase of validation."""
        self._timings.enter_phase("validation", time.time())

    @safe_hook
    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Records a heartbeat: a long validation is not a stall."""
        self._heartbeat = time.time()
        if self._timer is not None and not trainer.sanity_checking:
            self._timings.add_heartbeat(self._heartbeat)

    @safe_hook
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the phase of validation, which does not count to the next step."""
        self._heartbeat = time.time()
        if self._timer is not None:
            self._timer.take()
        # `trainer.training` is not set again yet.
        in_training = trainer.state.fn == "fit" and not trainer.sanity_checking
        self._timings.enter_phase("train" if in_training else "other", self._heartbeat)

    @safe_hook
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes pending steps and the trace."""
        if self._timer is not None:
            self._finish_trace()
            self._timings.flush()
            self._timings.enter_phase("other", time.time())

    @safe_hook
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the phase of testing."""
        self._timings.enter_phase("test", time.time())

    @safe_hook
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends the phase of testing."""
        self._timings.enter_phase("other", time.time())

    @safe_hook
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stops everything and writes the phases."""
        self.release(trainer)
        self._write_phases(trainer)

    @safe_hook
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Does the same as `teardown`, which Lightning does not call after an exception."""
        self.release(trainer)
        self._write_phases(trainer)

    def release(self, trainer: pl.Trainer) -> None:
        """Stops the sampler's thread and the trace, and restores the trainer's own profiler."""
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        if self._timer is not None:
            trainer.profiler, self._timer = self._timer.inner, None  # type: ignore[attr-defined]
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.stop()

    def _write_phases(self, trainer: pl.Trainer) -> None:
        if trainer.local_rank == 0:
            self._timings.enter_phase("other", time.time())
            seconds = self._initialization_s
            self._timings.close({} if seconds is None else {"initialization_s": round(seconds, 2)})


def _process_start() -> float:
    """Returns when the work began, seconds since the epoch: with the process, in a notebook now."""
    interactive = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    return time.time() if interactive else psutil.Process(os.getpid()).create_time()
