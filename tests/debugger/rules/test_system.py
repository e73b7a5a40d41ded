from __future__ import annotations

import numpy as np
import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.rules.gpu import (
    batch_size,
    gpu_memory_increase,
    jensen_shannon,
    load_balancing,
    low_gpu_utilization,
)
from dogbreed.debugger.rules.steps import data_wait, dataloader, overall_framework_metrics, step_outlier
from dogbreed.debugger.rules.system import cpu_bottleneck, io_bottleneck, overall_system_usage
from dogbreed.debugger.series import PARTS, StepTimes, SystemSeries

RANDOM = np.random.default_rng(0)


def machine(cpu=50.0, gpu=90.0, memory=50.0, io_wait=0.0, points=1200) -> SystemSeries:
    """A machine of two cores; each argument is a number, or (T,) or (T, devices) values."""

    def table(value, width):
        array = np.asarray(value, dtype=float)
        return np.broadcast_to(array[:, None] if array.ndim == 1 else array, (points, width)).copy()

    gpus = np.asarray(gpu).shape[1] if np.ndim(gpu) == 2 else 1
    times = np.arange(points) / 2
    return SystemSeries(times, table(cpu, 2), table(io_wait, 2), None, table(gpu, gpus), table(memory, gpus))


def mostly(value: float, otherwise: float, share: float, points: int = 2400) -> np.ndarray:
    return np.where(np.arange(points) % 10 < 10 * share, value, otherwise)


def test_batch_size_fires_on_low_usage():
    outcome = batch_size(machine(20, 30, 10), {"batch_size": 64})
    assert (outcome.status, str(outcome.suggestion)) == (Status.ISSUE, "batch_size=128")
    assert batch_size(machine(20, 95, 10)).status is Status.OK
    assert batch_size(machine(20, 70, 10)).status is Status.OK  # equal to the threshold


def test_short_runs_scale_patience_and_report_it():
    outcome = batch_size(machine(20, 30, 10, points=100))
    assert outcome.status is Status.ISSUE
    assert outcome.parameters == {"patience": 25, "window": 50}
    assert batch_size(machine(20, 30, 10, points=19)).status is Status.INSUFFICIENT_DATA


def test_cpu_bottleneck_fires_on_busy_cpus():
    sixty, forty = (machine(mostly(99, 10, share), 2, points=2400) for share in (0.6, 0.4))
    assert cpu_bottleneck(sixty).status is Status.ISSUE
    assert cpu_bottleneck(forty).status is Status.OK


def test_io_bottleneck_with_and_without_gpu():
    assert io_bottleneck(machine(gpu=5, io_wait=80)).status is Status.ISSUE
    assert io_bottleneck(machine(gpu=5, io_wait=5)).status is Status.OK
    assert io_bottleneck(machine(gpu=95, io_wait=80)).status is Status.OK
    times, cpu = np.arange(100.0), np.full((100, 2), 10.0)
    assert io_bottleneck(SystemSeries(times, cpu, np.full((100, 2), 80.0))).status is Status.ISSUE
    assert io_bottleneck(SystemSeries(times, cpu)).status is Status.NOT_APPLICABLE


@pytest.mark.parametrize("settings", [{}, {"window": 500, "increase": 10, "patience": 100}])
def test_gpu_memory_increase_fires_on_growth(settings):
    jump = np.where(np.arange(2400) < 1100, 20.0, 90.0)
    assert gpu_memory_increase(machine(memory=jump, points=2400), **settings).status is Status.ISSUE
    assert gpu_memory_increase(machine(memory=60, points=2400), **settings).status is Status.OK


def test_load_balancing_fires_on_uneven_gpus():
    uneven = np.column_stack([np.full(1200, 95.0), np.full(1200, 5.0)])
    even = 90 + 3 * RANDOM.normal(size=(1200, 2)).clip(-3, 3)
    assert load_balancing(machine(gpu=uneven)).status is Status.ISSUE
    assert load_balancing(machine(gpu=even)).status is Status.OK
    assert load_balancing(machine(gpu=np.full((1200, 2), 100.0))).status is Status.OK  # fully busy GPUs are counted
    assert load_balancing(machine()).status is Status.NOT_APPLICABLE


def test_distance_is_0_for_equal_and_1_for_disjoint():
    assert jensen_shannon(np.array([1.0, 2, 0]), np.array([2.0, 4, 0])) == pytest.approx(0, abs=1e-9)
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 5.0])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("gpu", "word"), [(30.0, "under-used"), (mostly(95, 0, 0.5, 1200), "used in bursts"), (0.0, "not used at all")]
)
def test_low_gpu_utilization_names_the_kind(gpu, word):
    outcome = low_gpu_utilization(machine(gpu=gpu))
    assert outcome.status is Status.ISSUE
    assert word in outcome.summary


def test_busy_gpu_is_ok():
    assert low_gpu_utilization(machine(gpu=90)).status is Status.OK


def test_overall_usage_equals_numpy_quantiles():
    cpu = RANDOM.uniform(0, 100, (300, 2))
    table = overall_system_usage(SystemSeries(np.arange(300.0), cpu)).details["table"]
    assert table["CPU %"]["p95"] == np.percentile(cpu, 95)
    assert table["CPU %"]["min"] == cpu.min()


def steps(total: np.ndarray, data_share: float = 0.0, epochs: np.ndarray | None = None) -> StepTimes:
    parts = {name: np.zeros_like(total) for name in PARTS}
    parts["data"], parts["forward"] = total * data_share, total * (1 - data_share)
    at = np.zeros(len(total), dtype=int) if epochs is None else epochs
    return StepTimes(np.arange(len(total)), parts, at, np.cumsum(total), {"train": 3.0, "validation": 1.0})


def with_outliers(count: int) -> np.ndarray:
    total = np.full(1000, 0.01)
    total[100 : 100 + count * 10 : 10] = 1.0
    return total


def test_step_outlier_fires_on_slow_steps():
    assert step_outlier(steps(with_outliers(12)), stddev=5).status is Status.ISSUE
    assert step_outlier(steps(with_outliers(5)), stddev=5).status is Status.OK
    assert step_outlier(steps(np.full(100, 0.01))).status is Status.INSUFFICIENT_DATA


def test_scheduling_delay_of_short_steps_is_not_an_outlier():
    assert step_outlier(steps(with_outliers(12) / 100)).status is Status.OK  # 10 ms among steps of 0.1 ms
    assert step_outlier(steps(with_outliers(12) / 100), min_extra_ms=5).status is Status.ISSUE


def test_first_steps_of_epochs_are_not_outliers():
    total, epochs = np.full(400, 0.01), np.arange(400) // 20
    total[::20] = 1.0
    assert step_outlier(steps(total, epochs=epochs)).violations == 0


def test_data_wait_fires_above_threshold():
    outcome = data_wait(steps(np.full(50, 0.1), 0.5), {"num_workers": 0, "cores": 4})
    assert (outcome.status, str(outcome.suggestion)) == (Status.ISSUE, "data.num_workers=4")
    assert data_wait(steps(np.full(50, 0.1), 0.1)).status is Status.OK
    assert data_wait(steps(np.full(10, 0.1), 0.5)).status is Status.INSUFFICIENT_DATA


def test_dataloader_fires_on_too_few_or_many_workers():
    slow = steps(np.full(50, 0.1), 0.5)
    assert dataloader({"num_workers": 0, "cores": 8}, slow).status is Status.ISSUE
    assert dataloader({"num_workers": 6, "cores": 8}, slow).status is Status.OK
    assert dataloader({"num_workers": 17, "cores": 8}, slow).status is Status.ISSUE
    assert dataloader({"num_workers": 0, "cores": 8}, steps(np.full(50, 0.1))).status is Status.OK
    assert dataloader({}).status is Status.NOT_APPLICABLE


def test_overall_framework_shares_add_up_to_100():
    details = overall_framework_metrics(steps(np.full(50, 0.1), 0.25), {"batch_size": 32}).details
    assert sum(details["parts_percent"].values()) == pytest.approx(100)
    assert sum(details["phases_percent"].values()) == pytest.approx(100)
    assert details["images_per_second"] == pytest.approx(320)
