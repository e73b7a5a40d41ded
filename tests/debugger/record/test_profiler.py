from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
from pytorch_lightning.profilers import PyTorchProfiler, SimpleProfiler

from dogbreed.debugger.callbacks import debugger_callbacks
from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.record.profiler import SystemProfiler
from dogbreed.debugger.record.step_timer import StepTimer
from dogbreed.debugger.rules.evaluate import evaluate
from dogbreed.debugger.series import PARTS
from dogbreed.errors import UserError
from tests.debugger.tiny import TinyData, TinyModel, network, train

SMALL = TinyData((32, 32), batch_size=16, val=8)
PROFILE = {"profiler": {"enabled": True, "interval_ms": 100}}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("profiled")
    train(folder, TinyModel(network(2)), SMALL, 8, PROFILE)
    return folder


def test_profiler_writes_sagemakers_layout(profiled: Path):
    paths = list((profiled / "profiler-output" / "system" / "incremental").glob("*/*.json"))
    assert paths and all(path.name.endswith(".algo-1.json") for path in paths)
    row = json.loads(paths[0].read_text().splitlines()[0])
    assert set(row) == {"Type", "Name", "Dimension", "Value", "NodeId", "Timestamp"}
    system = read_run(profiled).inputs["system"]
    assert system.cpu.shape == (len(system.times_s), len(os.sched_getaffinity(0)))
    assert ((system.cpu >= 0) & (system.cpu <= 100)).all()
    assert (
        system.times_s[-1] - system.times_s[0] >= 0.1 * (len(system.times_s) - 1) - 0.1
    )  # never more often than asked for


def test_profiler_output_is_read_by_smdebugs_reader(profiled: Path):
    pytest.importorskip("smdebug", reason="smdebug is not installed: pip install -e '.[debug]'")
    from smdebug.profiler.system_metrics_reader import LocalSystemMetricsReader

    reader = LocalSystemMetricsReader(str(profiled / "profiler-output"))
    now = int(time.time() * 1e6)
    events = reader.get_events(now - 600 * 1_000_000, now + 60 * 1_000_000)
    names = {event.dimension for event in events}
    assert {"CPUUtilization", "MemoryUsedPercent"} <= names


def test_parts_of_steps_add_up_to_elapsed_time(profiled: Path):
    times = read_run(profiled).inputs["step_times"]
    assert len(times.steps) == 32
    assert set(times.parts) == set(PARTS)
    within = np.diff(times.ends_s)[times.epochs[1:] == times.epochs[:-1]]
    total = times.total[1:][times.epochs[1:] == times.epochs[:-1]]
    assert np.median(np.abs(total - within)) < 0.01  # less if it waits between the two clocks
    assert total.sum() == pytest.approx(within.sum(), rel=0.1)
    assert all(times.parts[name].sum() > 0 for name in ("data", "forward", "backward", "optimizer"))
    assert times.phases_s["validation"] > 0 and times.phases_s["test"] > 0


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The profiler's clock, which only tests advance."""
    now = [float(int(time.time()))]
    monkeypatch.setattr("dogbreed.debugger.record.profiler.time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr(
        "dogbreed.debugger.record.profiler.StepTimer", lambda inner: StepTimer(inner, clock=lambda: now[0])
    )
    return now


class Slow(TinyModel):
    """A training step takes 1 s of the clock, a validation batch `validation_s`."""

    def __init__(self, now: list[float], validation_s: float = 100) -> None:
        super().__init__(network(2))
        self.now, self.validation_s = now, validation_s

    def training_step(self, batch, number):
        self.now[0] += 1
        return super().training_step(batch, number)

    def validation_step(self, batch, number):
        self.now[0] += self.validation_s


@pytest.mark.parametrize("interval", [0.25, 1.0])
def test_validation_within_epoch_is_not_part_of_a_step(interval: float, tmp_path: Path, now):
    train(tmp_path, Slow(now), SMALL, 2, PROFILE, test=False, val_check_interval=interval)
    times = read_run(tmp_path).inputs["step_times"]
    assert times.total.tolist() == [1.0] * 8
    validations = 2 / interval + 1  # one of them is the sanity check
    phases = {name: pytest.approx(seconds, abs=1e-3) for name, seconds in times.phases_s.items()}
    assert phases == {"train": 8, "validation": validations * 100, "test": 0, "other": 0}


def test_long_validation_is_not_a_stall(tmp_path: Path, now):
    train(tmp_path, Slow(now, validation_s=1000), SMALL, 2, PROFILE, test=False, limit_val_batches=4)
    recording = read_run(tmp_path)
    assert np.diff(recording.inputs["heartbeats"]).max() == pytest.approx(1000)
    [finding] = evaluate(recording, only=["StalledTraining"])
    assert finding.status is Status.OK


@pytest.mark.parametrize("killed", [False, True])
def test_pause_before_resuming_is_not_a_stall(killed: bool, tmp_path: Path, now):
    last = tmp_path / "last.ckpt"
    quiet = {"limit_val_batches": 0, "num_sanity_val_steps": 0}
    train(tmp_path, Slow(now), SMALL, 2, PROFILE, test=False, **quiet).save_checkpoint(last)
    if killed:
        timings = tmp_path / "debug" / "timings.jsonl"
        timings.write_text(timings.read_text().splitlines()[0])
    now[0] += 7200
    train(tmp_path, Slow(now), SMALL, 5, PROFILE, ckpt_path=last, **quiet)
    recording = read_run(tmp_path)
    assert recording.problems == []
    assert recording.inputs["heartbeats"] == pytest.approx(now[0] - 19 + np.arange(20))
    assert sum(recording.inputs["step_times"].phases_s.values()) == pytest.approx(20)
    [finding] = evaluate(recording, only=["StalledTraining"])
    assert (finding.status, finding.outcome.summary) == (Status.OK, "the longest wait was 1.0 s")


def test_trace_steps_writes_trace_and_operators(tmp_path: Path):
    config = {"profiler": {"enabled": True, "trace_steps": 2, "trace_start": 1}}
    train(tmp_path, TinyModel(network(2)), SMALL, 1, config, test=False)
    trace = json.loads((tmp_path / "debug" / "traces" / "trace-1.json").read_text())
    assert trace["traceEvents"]
    assert "conv" in (tmp_path / "debug" / "traces" / "operators.txt").read_text()


def test_interval_unknown_to_sagemaker_raises(tmp_path: Path):
    with pytest.raises(UserError, match="500"):
        SystemProfiler(tmp_path, interval_ms=300)


def test_stall_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    profiler = SystemProfiler(tmp_path)
    profiler._heartbeat = 1000.0
    for now in (2799.0, 2801.0, 2802.0):
        profiler._check_alive(now)
    assert capsys.readouterr().out.count("finding=StalledTraining status=issue") == 1


def test_gpu_without_metrics_is_insufficient_data(tmp_path: Path):
    train(tmp_path, TinyModel(network(2)), SMALL, 1, {**PROFILE, "tensors": {"enabled": True}}, test=False)
    for device, status in (("cpu", Status.NOT_APPLICABLE), ("cuda:0", Status.INSUFFICIENT_DATA)):
        settings = json.loads((tmp_path / "debug" / "run.json").read_text())
        (tmp_path / "debug" / "run.json").write_text(json.dumps({**settings, "device": device}))
        [finding] = evaluate(read_run(tmp_path), only=["LowGPUUtilization"])
        assert finding.status is status


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "dogbreed-system-profiler"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_failed_fit_stops_thread_and_restores_profiler(error: BaseException, tmp_path: Path):
    class Failing(TinyModel):
        def training_step(self, batch, number):
            if self.trainer.global_step == 3:
                assert threads() and isinstance(self.trainer.profiler, StepTimer)
                raise error
            return super().training_step(batch, number)

    own = SimpleProfiler()
    callbacks = debugger_callbacks({"profiler": {**PROFILE["profiler"], "trace_steps": 9, "trace_start": 1}}, tmp_path)
    trainer = pl.Trainer(
        profiler=own, callbacks=callbacks, accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False
    )
    with pytest.raises((RuntimeError, SystemExit)):
        trainer.fit(Failing(network(2)), SMALL)
    assert threads() == []
    assert trainer.profiler is own
    times = read_run(tmp_path).inputs["step_times"]
    assert times.steps.tolist() == [0, 1, 2] and times.phases_s["train"] > 0


def test_finished_fit_restores_profiler_it_forwarded_to(tmp_path: Path):
    own = SimpleProfiler()
    trainer = train(tmp_path, TinyModel(network(2)), SMALL, 1, PROFILE, profiler=own)
    assert trainer.profiler is own and threads() == []
    assert len(own.recorded_durations["run_training_batch"]) == 4


def test_pytorch_profiler_runs_with_system_profiler(tmp_path: Path):
    profiler = PyTorchProfiler(dirpath=tmp_path, filename="trace", export_to_chrome=False)
    train(tmp_path, TinyModel(network(2)), SMALL, 1, PROFILE, profiler=profiler, test=False)
    assert len(read_run(tmp_path).inputs["step_times"].steps) == 4
