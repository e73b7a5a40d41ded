from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from launch.runs.results import Sweep, Trial
from launch.views.plots import plot_sweep


def sweep(values: list[str]) -> Sweep:
    trials = tuple(Trial(f"s-{i:03}", "Completed", {"lr": lr}, 0.1 * i, 9.0) for i, lr in enumerate(values))
    return Sweep("s", "Completed", "val/accuracy", True, len(trials), trials, 9.0, log_keys=frozenset({"lr"}))


@pytest.mark.parametrize(("epochs", "panels"), [(1, 1), (3, 2)])
def test_plot_sweep_draws_curves_of_two_epochs_or_more(epochs: int, panels: int, tmp_path: Path):
    curves = {f"s-{i:03}": {epoch: 0.1 * epoch for epoch in range(epochs)} for i in range(4)}
    plot_sweep(sweep(["0.0011", "0.002", "0.004", "0.009"]), curves, tmp_path / "sweep.png")
    with Image.open(tmp_path / "sweep.png") as image:
        assert image.width == pytest.approx(panels * 4.6 * 120, abs=2)


def test_plot_sweep_of_a_narrow_log_range(tmp_path: Path):
    plot_sweep(sweep(["0.0011", "0.002", "0.004", "0.009"]), {}, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 1000
