from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pynvml
import pytest
from pytorch_lightning.profilers import PassThroughProfiler, Profiler

from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.read.system_metrics import read_system_metrics
from dogbreed.debugger.record.container_limits import read_limits, used_cpu_s, used_memory
from dogbreed.debugger.record.profiler import SystemProfiler
from dogbreed.debugger.record.step_timer import StepTimer, part_of
from dogbreed.debugger.record.system_metrics_writer import SystemMetricsWriter
from dogbreed.debugger.record.system_sampler import Machine, SystemSampler
from dogbreed.debugger.report.report import write_report
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


def test_machine_is_sampled_in_sagemakers_layout(profiled: Path):
    paths = list((profiled / "profiler-output" / "system" / "incremental").glob("*/*.json"))
    assert paths and all(path.name.endswith(".algo-1.json") for path in paths)
    row = json.loads(paths[0].read_text().splitlines()[0])
    assert set(row) == {"Type", "Name", "Dimension", "Value", "NodeId", "Timestamp"}
    system = read_run(profiled).inputs["system"]
    assert system.cpu.shape == (len(system.times_s), len(os.sched_getaffinity(0)))
    assert ((system.cpu >= 0) & (system.cpu <= 100)).all()
    assert system.times_s[-1] - system.times_s[0] >= 0.1 * (len(system.times_s) - 1) - 0.1  # never more than requested


def test_smdebug_reader_reads_the_files(profiled: Path):
    pytest.importorskip("smdebug", reason="smdebug is not installed: pip install -e '.[debug]'")
    from smdebug.profiler.system_metrics_reader import LocalSystemMetricsReader

    reader = LocalSystemMetricsReader(str(profiled / "profiler-output"))
    now = int(time.time() * 1e6)
    events = reader.get_events(now - 600 * 1_000_000, now + 60 * 1_000_000)
    names = {event.dimension for event in events}
    assert {"CPUUtilization", "MemoryUsedPercent"} <= names


def test_step_phases_add_up_to_elapsed_time(profiled: Path):
    times = read_run(profiled).inputs["step_times"]
    assert len(times.steps) == 32
    assert set(times.parts) == set(PARTS)
    within = np.diff(times.ends_s)[times.epochs[1:] == times.epochs[:-1]]
    total = times.total[1:][times.epochs[1:] == times.epochs[:-1]]
    assert np.median(np.abs(total - within)) < 0.01  # again, waiting between two clock readings
    assert total.sum() == pytest.approx(within.sum(), rel=0.1)
    assert all(times.parts[name].sum() > 0 for name in ("data", "forward", "backward", "optimizer"))
    assert times.phases_s["validation"] > 0 and times.phases_s["test"] > 0


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The profiler's clock, which stands still."""
    now = [float(int(time.time()))]
    monkeypatch.setattr("dogbreed.debugger.record.profiler.time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr(
        "dogbreed.debugger.record.profiler.StepTimer", lambda inner: StepTimer(inner, clock=lambda: now[0])
    )
    return now


class Slow(TinyModel):
    """A training step takes 1 s of the clock, a validation batch 100 s."""

    def __init__(self, now: list[float]) -> None:
        super().__init__(network(2))
        self.now = now

    def training_step(self, batch, number):
        self.now[0] += 1
        return super().training_step(batch, number)

    def validation_step(self, batch, number):
        self.now[0] += 100


@pytest.mark.parametrize("interval", [0.25, 1.0])
def test_validation_within_an_epoch_is_not_part_of_a_step(interval: float, tmp_path: Path, now):
    train(tmp_path, Slow(now), SMALL, 2, PROFILE, test=False, val_check_interval=interval)
    times = read_run(tmp_path).inputs["step_times"]
    assert times.total.tolist() == [1.0] * 8
    validations = 2 / interval + 1  # one of them before the training
    phases = {name: pytest.approx(seconds, abs=1e-3) for name, seconds in times.phases_s.items()}
    assert phases == {"setup": 0, "train": 8, "validation": validations * 100, "test": 0, "other": 0}


@pytest.mark.parametrize("killed", [False, True])
def test_pause_before_a_resume_is_not_a_stall(killed: bool, tmp_path: Path, now):
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


class Listening(Profiler):
    """Records the start and end of actions."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def start(self, action_name: str) -> None:
        self.heard.append(f"+{action_name}")

    def stop(self, action_name: str) -> None:
        self.heard.append(f"-{action_name}")


def test_profiler_of_the_trainer_receives_all_actions():
    timer = StepTimer(Listening())
    with timer.profile("run_training_batch"), timer.profile("[Strategy]S.backward"):
        pass
    names = ["run_training_batch", "[Strategy]S.backward"]
    assert timer.inner.heard == [*(f"+{name}" for name in names), *(f"-{name}" for name in reversed(names))]


@pytest.mark.parametrize("inner", [PassThroughProfiler, Listening])
def test_nested_actions_are_excluded_from_own_time(inner: type[Profiler]):
    now = [0.0]
    timer = StepTimer(inner(), clock=lambda: now[0])
    for action, seconds in (
        ("[_TrainingEpochLoop].train_dataloader_next", 2), ("[LightningModule]M.optimizer_step", 1),
    ):  # fmt: skip
        with timer.profile(action):
            now[0] += seconds
            if "optimizer" in action:
                with timer.profile("[Strategy]S.training_step"):
                    now[0] += 4
                with timer.profile("[Strategy]S.backward"), timer.profile("[Callback]C.on_after_backward"):
                    now[0] += 8
    now[0] += 16
    taken = timer.take()
    assert taken == {"data": 2, "optimizer": 1, "forward": 4, "backward": 0, "callbacks": 8, "other": 16}
    assert sum(timer.take().values()) == 0
    assert part_of("run_training_batch") is None


def test_traces_are_written_on_request(tmp_path: Path):
    config = {"profiler": {"enabled": True, "trace_steps": 2, "trace_start": 1}}
    train(tmp_path, TinyModel(network(2)), SMALL, 1, config, test=False)
    trace = json.loads((tmp_path / "debug" / "traces" / "trace-1.json").read_text())
    assert trace["traceEvents"]
    assert "conv" in (tmp_path / "debug" / "traces" / "operators.txt").read_text()


def test_interval_that_sagemaker_does_not_support_is_rejected(tmp_path: Path):
    with pytest.raises(UserError, match="500"):
        SystemProfiler(tmp_path, interval_ms=300)


def test_stalled_training_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    profiler = SystemProfiler(tmp_path)
    profiler._heartbeat = 1000.0
    for now in (2799.0, 2801.0, 2802.0):
        profiler._check_alive(now)
    assert capsys.readouterr().out.count("finding=StalledTraining status=issue") == 1


def write(root: Path, values: dict[str, str]) -> Path:
    for name, value in values.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    return root


V2 = {
    "cpu.max": "150000 100000", "memory.max": "1000", "memory.current": "600",
    "memory.stat": "anon 1\ninactive_file 100\n", "cpu.stat": "usage_usec 2500000\n",
}  # fmt: skip
V1 = {
    "cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "1000",
    "memory/memory.usage_in_bytes": "600", "memory/memory.stat": "total_inactive_file 100\n",
    "cpuacct/cpuacct.usage": "2500000000",
}  # fmt: skip
UNLIMITED = {"cpu.max": "max 100000", "memory.max": "max", "memory/memory.limit_in_bytes": "9223372036854771712"}


@pytest.mark.parametrize("layout", [V2, V1])
def test_container_limit_replaces_the_host_limit(layout: dict[str, str], tmp_path: Path):
    root = write(tmp_path, layout)
    limits = read_limits(root, host_cores=16, host_memory=10_000)
    assert (limits.cores, limits.memory_bytes, limits.is_limited) == (1.5, 1000, True)
    assert used_memory(root) == 500
    assert used_cpu_s(root) == 2.5


def test_host_limit_is_used_without_container_limit(tmp_path: Path):
    limits = read_limits(write(tmp_path, UNLIMITED), host_cores=16, host_memory=10_000)
    assert (limits.cores, limits.memory_bytes, limits.is_limited) == (16, 10_000, False)
    assert read_limits(tmp_path / "absent", 16, 10_000).cores == 16


def test_utilisation_is_relative_to_the_cpu_quota(tmp_path: Path):
    root = write(tmp_path, {"cpu.max": "50000 100000", "cpu.stat": "usage_usec 0\n", "memory.max": "max"})
    machine = Machine(root)
    machine._previous["cpu"] = (time.monotonic() - 1000.0, 0.0)
    write(root, {"cpu.stat": "usage_usec 250000000\n"})
    rows = [row for row in machine.sample() if row[1] == "CPUUtilization"]
    assert [name for _, _, name, _ in rows] == ["cpu0"]
    assert rows[0][3] == pytest.approx(50, rel=0.01)  # 250 s of CPU time in 1000 s, of half a core


def test_every_snapshot_of_the_shortest_interval_is_read(tmp_path: Path):
    files = SystemMetricsWriter(tmp_path)
    for tenth in range(600):  # timers fire early or late
        files.write(60_000_000 + tenth / 10 + tenth % 3 / 100, [("cpu", "CPUUtilization", "cpu0", 10.0)])
    files.close()
    system, _ = read_system_metrics(tmp_path)
    assert system is not None and len(system.times_s) == 600


def test_damaged_lines_are_counted_and_skipped(tmp_path: Path):
    files = SystemMetricsWriter(tmp_path)
    for second in range(3):
        files.write(60_000_000 + second, [("cpu", "CPUUtilization", f"cpu{i}", 10.0 * i) for i in (0, 10, 2)])
    files.close()
    path = next(tmp_path.rglob("*.json"))
    path.write_text(path.read_text() + '{"Type": "cpu", "Na')
    system, problems = read_system_metrics(tmp_path)
    assert system is not None
    assert system.cpu.tolist() == [[0.0, 20.0, 100.0]] * 3  # cpu10 comes after cpu2
    assert "1 of 10 lines" in problems[0]


def test_sampler_without_write_access_stops_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("")
    sampler = SystemSampler(SystemMetricsWriter(tmp_path / "file"), 0.01, Machine())
    sampler.start()
    sampler._thread.join(30)
    assert not sampler.is_running
    sampler.stop()
    assert "no longer sampled" in caplog.text


class FakeDriver:
    """A stand-in for `pynvml` on a machine with two GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.utilisation, self.used = [97, 12], [60, 20]
        self.fail: dict[str, pynvml.NVMLError] = {}
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, answer in {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetHandleByUUID": {"GPU-aa": 0, "GPU-bb": 1}.__getitem__,
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=self.utilisation[gpu], memory=3),
            "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=self.used[gpu] << 30, total=80 << 30),
        }.items():
            monkeypatch.setattr(pynvml, name, self._guarded(name, answer))

    def _guarded(self, name: str, answer):
        def call(*arguments):
            if name in self.fail:
                raise self.fail[name]
            return answer(*arguments)

        return call


def gpu_rows() -> list[tuple[str, str, float]]:
    return [(row[2], row[1], row[3]) for row in Machine().sample() if row[0] == "gpu"]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return FakeDriver(monkeypatch)


def test_gpus_are_sampled_and_reach_rules_and_report(driver: FakeDriver, tmp_path: Path):
    assert gpu_rows() == [
        ("gpu0", "GPUUtilization", 97.0), ("gpu0", "GPUMemoryUtilization", 75.0),
        ("gpu1", "GPUUtilization", 12.0), ("gpu1", "GPUMemoryUtilization", 25.0),
    ]  # fmt: skip
    files, machine = SystemMetricsWriter(tmp_path / "profiler-output"), Machine()
    for second in range(60):
        files.write(60_000_000 + second, machine.sample())
    files.close()
    report = write_report(tmp_path, print_findings=False)
    assert {"LowGPUUtilization", "LoadBalancing"} <= {finding.rule for finding in report.issues}
    assert "gpu1 is under-used (12 %)" in report.html.read_text()


@pytest.mark.parametrize(("visible", "load"), [("1", [12.0]), ("GPU-bb,GPU-aa", [12.0, 97.0]), ("", []), ("-1", [])])
def test_only_visible_gpus_are_sampled(driver: FakeDriver, monkeypatch, visible: str, load: list):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [value for _, dimension, value in gpu_rows() if dimension == "GPUUtilization"] == load


def test_missing_driver_is_silent_and_broken_one_is_logged(driver: FakeDriver, caplog):
    driver.fail["nvmlInit"] = pynvml.NVMLError_LibraryNotFound()
    assert gpu_rows() == [] and not caplog.text
    driver.fail["nvmlInit"] = pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    assert gpu_rows() == [] and "GPUs are not sampled" in caplog.text


def test_failing_gauge_is_logged_once_and_others_continue(driver: FakeDriver, caplog, tmp_path: Path):
    machine = Machine()
    driver.fail["nvmlDeviceGetUtilizationRates"] = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)  # as under MIG
    for _ in range(2):
        assert [row[3] for row in machine.sample() if row[0] == "gpu"] == [75.0, 25.0]
    assert caplog.text.count("no longer sampled") == 2


def test_gpu_without_samples_is_not_a_missing_gpu(tmp_path: Path):
    train(tmp_path, TinyModel(network(2)), SMALL, 1, {**PROFILE, "tensors": {"enabled": True}}, test=False)
    for device, status in (("cpu", Status.NOT_APPLICABLE), ("cuda:0", Status.INSUFFICIENT_DATA)):
        settings = json.loads((tmp_path / "debug" / "run.json").read_text())
        (tmp_path / "debug" / "run.json").write_text(json.dumps({**settings, "device": device}))
        [finding] = evaluate(read_run(tmp_path), only=["LowGPUUtilization"])
        assert finding.status is status
