"""Looks at the machine from a thread of its own: CPU, I/O, memory, disk, network and NVIDIA GPUs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pynvml

from dogbreed.debugger.record.container_limits import CGROUP, read_limits, used_cpu_s, used_memory
from dogbreed.debugger.record.system_metrics_writer import SystemMetricsWriter
from dogbreed.system import cpu as cores

log = logging.getLogger(__name__)

Sample = tuple[str, str, str, float]
"""(Type, Dimension, Name, Value) as in SageMaker's files."""


class Machine:
    """Samples what this job may use of the machine; the first sample of a rate needs a second one.

    Under a CPU quota cores are those of the quota: each shows the job's use of it in percent, as the single cores of
    the host serve others too.

    Args:
        root: Where cgroups are found.
    """

    def __init__(self, root: Path = CGROUP) -> None:
        self.root = root
        self.limits = read_limits(root)
        self.cores = cores.numbers()
        self.gpus = open_gpus()
        self._before: dict[str, tuple[float, float]] = {}
        psutil.cpu_times_percent(percpu=True)

    def sample(self) -> list[Sample]:
        """Returns what is going on now."""
        return [*self._cpu(), *self._memory(), *self._traffic(), *self._gpus()]

    def _cpu(self) -> list[Sample]:
        quota = self.limits.cores
        used = used_cpu_s(self.root) if quota < len(self.cores) else None
        times = psutil.cpu_times_percent(percpu=True)
        mine = [times[number] for number in self.cores if number < len(times)]
        rows: list[Sample] = []
        rate = None if used is None else self._rate("cpu", used)
        for number, core in enumerate(mine):
            if used is None:
                rows.append(("cpu", "CPUUtilization", f"cpu{number}", max(0.0, 100.0 - core.idle - _wait(core))))
            if hasattr(core, "iowait"):
                rows.append(("cpu", "I/OWaitPercentage", f"cpu{number}", core.iowait))
        if rate is not None:
            share = min(100.0, 100.0 * rate / quota)
            rows += [("cpu", "CPUUtilization", f"cpu{i}", share) for i in range(max(1, round(quota)))]
        return rows

    def _memory(self) -> list[Sample]:
        used = used_memory(self.root) if self.limits.is_limited else None
        percent = psutil.virtual_memory().percent if used is None else 100 * used / self.limits.memory_bytes
        return [("memory", "MemoryUsedPercent", "MemoryUsedPercent", percent)]

    def _traffic(self) -> list[Sample]:
        rows: list[Sample] = []
        network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
        for kind, dimension, name, counter in (
            ("network", "Algorithm", "ReceiveBytesPerSecond", getattr(network, "bytes_recv", None)),
            ("network", "Algorithm", "TransmitBytesPerSecond", getattr(network, "bytes_sent", None)),
            ("disk", "Algorithm", "ReadBytesPerSecond", getattr(disk, "read_bytes", None)),
            ("disk", "Algorithm", "WriteBytesPerSecond", getattr(disk, "write_bytes", None)),
        ):
            rate = None if counter is None else self._rate(name, counter)
            if rate is not None:
                rows.append((kind, dimension, name, rate))
        return rows

    def _rate(self, name: str, value: float) -> float | None:
        now = time.monotonic()
        before = self._before.get(name)
        self._before[name] = (now, value)
        return max(0.0, (value - before[1]) / (now - before[0])) if before and now > before[0] else None

    def _gpus(self) -> list[Sample]:
        rows: list[Sample] = []
        for gauge in list(self.gpus):
            try:
                rows.append(("gpu", gauge.dimension, gauge.name, gauge.read()))
            except pynvml.NVMLError as error:
                log.warning("%s of %s is no longer watched: %s", gauge.dimension, gauge.name, error)
                self.gpus.remove(gauge)
        return rows


def _wait(core: Any) -> float:
    return float(getattr(core, "iowait", 0.0))


@dataclass(frozen=True)
class Gauge:
    """One figure that a GPU tells, in percent."""

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
            log.warning("GPUs are not watched: %s", error)
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
    """Yields NVML's handles of what CUDA_VISIBLE_DEVICES leaves: trials side by side have a GPU each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(pynvml.nvmlDeviceGetCount())) if visible is None else visible.split(",")
    for name in map(str.strip, names):
        if name.isdigit():
            yield pynvml.nvmlDeviceGetHandleByIndex(int(name))
        elif name.startswith(("GPU-", "MIG-")):
            yield pynvml.nvmlDeviceGetHandleByUUID(name)
        else:  # "" and "-1": CUDA sees no device from here on
            return


class SystemSampler:
    """A thread that samples the machine into files.

    Args:
        files: Where to.
        interval_s: Seconds between two samples.
        machine: What to sample.
        watch: Called after each sample, for instance to see that the training still lives.
    """

    def __init__(
        self,
        files: SystemMetricsWriter,
        interval_s: float,
        machine: Machine,
        watch: Callable[[float], None] | None = None,
    ) -> None:
        self.files = files
        self.interval_s = interval_s
        self.machine = machine
        self.watch = watch
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dogbreed-system-profiler", daemon=True)

    def start(self) -> None:
        """Begins sampling."""
        self._thread.start()

    def stop(self) -> None:
        """Ends sampling and closes the file."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                self.files.write(time.time(), self.machine.sample())
            except OSError as error:
                log.warning("the machine is no longer watched: %s", error)
                break
            if self.watch is not None:
                self.watch(time.time())
            due = max(due + self.interval_s, time.monotonic())
            self._stop.wait(due - time.monotonic())
        self.files.close()
