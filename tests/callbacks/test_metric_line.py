"""The metric line and its regex are one contract: the regex reads what the line contains."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.callbacks.metric_line import metric_line, metric_regex, read_metrics

names = st.from_regex(r"(train|val|test)/[a-z0-9_]{1,8}", fullmatch=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(names, numbers, min_size=1, max_size=5), st.integers(0, 999))
def test_regex_and_reader_find_every_metric_of_a_line(metrics, epoch):
    line = metric_line(epoch, metrics)
    for name, value in metrics.items():
        match = re.search(metric_regex(name), line)
        assert match is not None
        assert float(match[1]) == pytest.approx(value, rel=1e-5)
    assert read_metrics(line).keys() == {"epoch", *metrics}
    assert read_metrics(line)["epoch"] == epoch


def test_regex_does_not_match_names_with_the_same_ending():
    line = metric_line(0, {"train/top5_accuracy": 0.5, "val/accuracy": 0.25})
    assert re.search(metric_regex("val/accuracy"), line)[1] == "0.25"
    assert re.search(metric_regex("accuracy"), line) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_diverged_metric_does_not_match(value):
    line = metric_line(2, {"val/loss": value, "val/accuracy": 0.1})
    assert re.search(metric_regex("val/loss"), line) is None
    assert read_metrics(line) == {"epoch": 2, "val/accuracy": 0.1}


def test_other_log_lines_do_not_match():
    for line in ("Epoch 3: 40%|####| val/accuracy=0.9", "metrics are printed below", ""):
        assert re.search(metric_regex("val/accuracy"), line) is None
        assert read_metrics(line) == {}


def test_regex_is_within_sagemakers_limit():
    assert len(metric_regex("v" * 255)) <= 500


def test_name_with_a_space_is_rejected():
    with pytest.raises(ValueError, match="val accuracy"):
        metric_line(0, {"val accuracy": 1.0})
