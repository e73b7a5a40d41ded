from __future__ import annotations

from pathlib import Path

import pytest

from dogbreed.debugger.record.container_limits import read_limits, used_cpu_s, used_memory


def write_files(root: Path, values: dict[str, str]) -> Path:
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
def test_read_limits_prefers_container_to_host(layout: dict[str, str], tmp_path: Path):
    root = write_files(tmp_path, layout)
    limits = read_limits(root, host_cores=16, host_memory=10_000)
    assert (limits.cores, limits.memory_bytes, limits.is_limited) == (1.5, 1000, True)
    assert used_memory(root) == 500
    assert used_cpu_s(root) == 2.5


def test_read_limits_without_limit_is_the_hosts(tmp_path: Path):
    limits = read_limits(write_files(tmp_path, UNLIMITED), host_cores=16, host_memory=10_000)
    assert (limits.cores, limits.memory_bytes, limits.is_limited) == (16, 10_000, False)
    assert read_limits(tmp_path / "absent", 16, 10_000).cores == 16
