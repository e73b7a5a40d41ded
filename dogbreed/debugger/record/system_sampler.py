"""Samples CPU, I/O, memory, disk, network and NVIDIA GPUs in a background thread."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pynvml

from dogbreed.debugger.record.container_limits import CGROUP, read_limits, used_cpu_s, used_memory
from dogbreed.debugger.record.system_metrics_writer import Sample, SystemMetricsWriter
from dogbreed.system.cpu import cpu_ids

log = logging.getLogger(__name__)


class Machine:
    """Samples the part of the machine that this job may use; rates need two samples.

    Under a CPU quota, utilisation is the job's share of the quota: the host's cores serve other containers too.

    Args:
        root: The cgroup file system.
    """

    def __init__(self, root: Path = CGROUP) -> None:
        self.root = root
        self.limits = read_limits(root)
        self.cores = cpu_ids()
        self.gpus = open_gpus()
        self._previous: dict[str, tuple[float, float]] = {}
        psutil.cpu_times_percent(percpu=True)

    def sample(self) -> list[Sample]:
        """Returns the current samples."""
        return [*self._cpu(), *self._memory(), *self._traffic(), *self._gpus()]

    def _cpu(self) -> list[Sample]:
        quota = self.limits.cores
        used = used_cpu_s(self.root) if quota < len(self.cores) else None
        times = psutil.cpu_times_percent(percpu=True)
        rows: list[Sample] = []
        for number, core in enumerate(times[number] for number in self.cores if number < len(times)):
            io_wait = getattr(core, "iowait", None)
            if used is None:
                rows.append(("cpu", "CPUUtilization", f"cpu{number}", max(0.0, 100.0 - core.idle - (io_wait or 0.0))))
            if io_wait is not None:
                rows.append(("cpu", "I/OWaitPercentage", f"cpu{number}", io_wait))
        rate = None if used is None else self._rate("cpu", used)
        if rate is not None:
            share = min(100.0, 100.0 * rate / quota)
            rows += [("cpu", "CPUUtilization", f"cpu{i}", share) for i in range(max(1, round(quota)))]
        return rows

    def _memory(self) -> list[Sample]:
        used = used_memory(self.root) if self.limits.is_limited else None
        percent = psutil.virtual_memory().percent if used is None else 100 * used / self.limits.memory_bytes
        return [("memory", "MemoryUsedPercent", "MemoryUsedPercent", percent)]

    def _traffic(self) -> list[Sample]:
        network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
        rows: list[Sample] = []
        for kind, name, counters, field in (
            ("network", "ReceiveBytesPerSecond", network, "bytes_recv"),
            ("network", "TransmitBytesPerSecond", network, "bytes_sent"),
            ("disk", "ReadBytesPerSecond", disk, "read_bytes"),
            ("disk", "WriteBytesPerSecond", disk, "write_bytes"),
        ):
            rate = None if counters is None else self._rate(name, getattr(counters, field))
            if rate is not None:
                rows.append((kind, "Algorithm", name, rate))
        return rows

    def _rate(self, name: str, value: float) -> float | None:
        """Returns the increase of a counter per second since the last call, None at the first one."""
        now = time.monotonic()
        previous = self._previous.get(name)
        self._previous[name] = (now, value)
        return max(0.0, (value - previous[1]) / (now - previous[0])) if previous and now > previous[0] else None

    def _gpus(self) -> list[Sample]:
        rows: list[Sample] = []
        for gauge in list(self.gpus):
            try:
                rows.append(("gpu", gauge.dimension, gauge.name, gauge.read()))
            except pynvml.NVMLError as error:
                log.warning("%s of %s is no longer sampled: %s", gauge.dimension, gauge.name, error)
                self.gpus.remove(gauge)
        return rows


class Gauge(NamedTuple):
    """One metric of a GPU, in percent."""

    dimension: str
    name: str
    read: Callable[[], float]


def open_gpus() -> list[Gauge]:
    """Returns the gauges of the NVIDIA GPUs that this process may use; [] without a driver."""
    try:
        pynvml.nvmlInit()
        handles = list(_visible_gpus())
    except pynvml.NVMLError as error:
        if not isinstance(error, pynvml.NVMLError_LibraryNotFound):
            log.warning("GPUs are not sampled: %s", error)
        return []
    readers = {"GPUUtilization": _utilisation, "GPUMemoryUtilization": _memory_used}
    return [
        Gauge(dimension, f"gpu{number}", partial(read, handle))
        for number, handle in enumerate(handles)
        for dimension, read in readers.items()
    ]


def _utilisation(handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _memory_used(handle: Any) -> float:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return 100 * float(memory.used) / float(memory.total)


def _visible_gpus() -> Iterator[Any]:
    """Yields NVML handles of the GPUs in CUDA_VISIBLE_DEVICES: parallel trials have one GPU each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(pynvml.nvmlDeviceGetCount())) if visible is None else visible.split(",")
    for name in map(str.strip, names):
        if name.isdigit():
            yield pynvml.nvmlDeviceGetHandleByIndex(int(name))
        elif name.startswith(("GPU-", "MIG-")):
            yield pynvml.nvmlDeviceGetHandleByUUID(name)
        else:  # CUDA ignores all devices after an invalid one, such as "" and "-1"
            return


class SystemSampler:
    """A thread that samples the machine into files until `stop`.

    Args:
        writer: Writes the samples.
        interval_s: Seconds between samples.
        machine: What to sample.
        on_sample: Called after each sample with the time, seconds since the epoch.
    """

    def __init__(
        self,
        writer: SystemMetricsWriter,
        interval_s: float,
        machine: Machine,
        on_sample: Callable[[float], None] | None = None,
    ) -> None:
        self.writer = writer
        self.interval_s = interval_s
        self.machine = machine
        self.on_sample = on_sample
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dogbreed-system-profiler", daemon=True)

    @property
    def is_running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, which closes the file."""
        self._stop.set()
        if self.is_running:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                self.writer.write(time.time(), self.machine.sample())
            except Exception as error:  # noqa: BLE001 - a full disk, a device that went away: only the sampling ends
                log.warning("the machine is no longer sampled: %s: %s", type(error).__name__, error)
                break
            if self.on_sample is not None:
                self.on_sample(time.time())
            due = max(due + self.interval_s, time.monotonic())
            self._stop.wait(due - time.monotonic())
        self.writer.close()
