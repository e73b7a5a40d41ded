from __future__ import annotations

import re

import numpy as np
import pytest

from dogbreed.debugger.report.charts import Axes, Line, bar_chart, heat_map, line_chart, thinned, ticks


def test_charts_hold_gaps_thin_long_lines_and_keep_extremes():
    x = np.arange(10_000.0)
    y = np.where(x == 4321, 99.0, np.sin(x))
    line = thinned(Line("loss", x, y))
    assert len(line.x) <= 300 and 99.0 in line.y
    svg = str(line_chart([Line("a", x[:5], np.array([1, 2, np.nan, 3, 4.0]))], Axes("step")))
    assert re.search(r'd="M[^"]*M', svg)  # the pen is lifted at the gap
    assert "nothing was recorded" in line_chart([Line("a", x[:2], np.array([np.nan] * 2))], Axes("step"))
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert bar_chart(np.array([0.0, 1, 2]), np.array([np.nan, 3.0]), Axes("x")).count("<rect") == 1


def test_confusion_of_133_classes_is_small_and_readable():
    names = [f"{i:03}.breed" for i in range(133)]
    html = heat_map(np.eye(133) * 100, names, names, cells="%", low=0, high=100)
    assert len(html) < 200_000
    assert "132.breed" in html
