from __future__ import annotations

import re

import matplotlib
import numpy as np
import pytest

from dogbreed.debugger.report.charts import Line, bar_chart, heat_map, line_chart, number, thinned


def test_thinned_keeps_extremes():
    x = np.arange(10_000.0)
    line = thinned(Line("loss", x, np.where(x == 4321, 99.0, np.sin(x))))
    assert len(line.x) <= 300 and 99.0 in line.y


def test_line_chart_has_a_gap_at_nan():
    svg = str(line_chart([Line("a", np.arange(5.0), np.array([1, 2, np.nan, 3, 4.0]))], "step"))
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--c1\)', svg)
    assert paths[0].count("M") == 2


def test_line_chart_without_points_shows_a_note():
    assert "nothing was recorded" in line_chart([Line("a", np.arange(2.0), np.array([np.nan] * 2))], "step")


def test_line_chart_of_decades_is_logarithmic():
    svg = line_chart([Line("a", np.arange(9.0), np.array([1.0] * 8 + [1e6]))], "step")
    assert re.search(r"10|\\times", svg) and "1000000" not in svg


def test_charts_escape_names():
    assert "<b>" not in line_chart([Line("<b>", np.arange(3.0), np.arange(3.0))], "<b>")


def test_charts_depend_on_nothing_outside(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "#123456")
    charts = [
        line_chart([Line("a", np.arange(3.0), np.arange(3.0))], "epoch", marks=[1]),
        bar_chart(np.array([0.0, 1, 2]), np.array([np.nan, 3.0]), "ms", "steps"),
        heat_map(np.array([[1, np.nan], [2.0, 3]]), ["a", "b"], ["step 0", "step 1"], label="log10"),
    ]
    for chart in charts:
        assert not re.search(r"https?:|<style|#123456|font-family|<g id", chart)
    assert matplotlib.rcParams["axes.facecolor"] == "#123456"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (1234.5, "1234"), (12345, "12.3k"), (2.5e6, "2.5M"), (float("nan"), "nan")],
)
def test_number_is_short(value: float, text: str):
    assert number(value) == text
