from __future__ import annotations

from pathlib import Path

from dogbreed.debugger.read.system_metrics import read_system_metrics
from dogbreed.debugger.record.system_metrics_writer import SystemMetricsWriter


def test_read_system_metrics_keeps_each_snapshot(tmp_path: Path):
    files = SystemMetricsWriter(tmp_path)
    for tenth in range(600):  # timers are early or late
        files.write(60_000_000 + tenth / 10 + tenth % 3 / 100, [("cpu", "CPUUtilization", "cpu0", 10.0)])
    files.close()
    system, _ = read_system_metrics(tmp_path)
    assert system is not None and len(system.times_s) == 600


def test_read_system_metrics_counts_damaged_lines(tmp_path: Path):
    files = SystemMetricsWriter(tmp_path)
    for second in range(3):
        files.write(60_000_000 + second, [("cpu", "CPUUtilization", f"cpu{i}", 10.0 * i) for i in (0, 10, 2)])
    files.close()
    path = next(tmp_path.rglob("*.json"))
    path.write_text(path.read_text() + '{"Type": "cpu", "Na')
    system, problems = read_system_metrics(tmp_path)
    assert system is not None
    assert system.cpu.tolist() == [[0.0, 20.0, 100.0]] * 3  # cpu10 follows cpu2
    assert "1 of 10 lines" in problems[0]
