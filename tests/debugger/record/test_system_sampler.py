from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from dogbreed.debugger.record.system_metrics_writer import SystemMetricsWriter
from dogbreed.debugger.record.system_sampler import Machine, SystemSampler
from dogbreed.debugger.report.report import write_report
from tests.debugger.record.test_container_limits import write_files


def test_machine_under_quota_samples_use_of_the_quota(tmp_path: Path):
    root = write_files(tmp_path, {"cpu.max": "50000 100000", "cpu.stat": "usage_usec 0\n", "memory.max": "max"})
    machine = Machine(root)
    machine._previous["cpu"] = (time.monotonic() - 1000.0, 0.0)
    write_files(root, {"cpu.stat": "usage_usec 250000000\n"})
    rows = [row for row in machine.sample() if row[1] == "CPUUtilization"]
    assert [name for _, _, name, _ in rows] == ["cpu0"]
    assert rows[0][3] == pytest.approx(50, rel=0.01)  # 250 s of CPU time in 1000 s, of half a core


def test_sampler_that_cannot_write_ends_with_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("")
    sampler = SystemSampler(SystemMetricsWriter(tmp_path / "file"), 0.01, Machine())
    sampler.start()
    sampler._thread.join(30)
    assert not sampler.is_running
    sampler.stop()
    assert "no longer sampled" in caplog.text


class FakeDriver:
    """NVML on a machine with two GPUs, at the boundary of `pynvml`'s functions."""

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


def test_machine_samples_gpus_into_rules_and_report(driver: FakeDriver, tmp_path: Path):
    assert gpu_rows() == [
        ("gpu0", "GPUUtilization", 97.0), ("gpu0", "GPUMemoryUtilization", 75.0),
        ("gpu1", "GPUUtilization", 12.0), ("gpu1", "GPUMemoryUtilization", 25.0),
    ]  # fmt: skip
    files, machine = SystemMetricsWriter(tmp_path / "profiler-output"), Machine()
    for second in range(60):
        files.write(60_000_000 + second, machine.sample())
    files.close()
    report = write_report(tmp_path, say=False)
    assert {"LowGPUUtilization", "LoadBalancing"} <= {finding.rule for finding in report.issues}
    assert "gpu1 is under-used (12 %)" in report.html.read_text()


@pytest.mark.parametrize(("visible", "load"), [("1", [12.0]), ("GPU-bb,GPU-aa", [12.0, 97.0]), ("", []), ("-1", [])])
def test_machine_samples_visible_gpus_only(driver: FakeDriver, monkeypatch, visible: str, load: list):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [value for _, dimension, value in gpu_rows() if dimension == "GPUUtilization"] == load


def test_machine_logs_broken_driver_but_not_missing_one(driver: FakeDriver, caplog):
    driver.fail["nvmlInit"] = pynvml.NVMLError_LibraryNotFound()
    assert gpu_rows() == [] and not caplog.text
    driver.fail["nvmlInit"] = pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    assert gpu_rows() == [] and "GPUs are not sampled" in caplog.text


def test_gauge_that_fails_is_logged_once_and_dropped(driver: FakeDriver, caplog, tmp_path: Path):
    machine = Machine()
    driver.fail["nvmlDeviceGetUtilizationRates"] = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)  # as under MIG
    for _ in range(2):
        assert [row[3] for row in machine.sample() if row[0] == "gpu"] == [75.0, 25.0]
    assert caplog.text.count("no longer sampled") == 2
