from __future__ import annotations

import pytest

from dogbreed.debugger.findings import Evidence, Finding, Status, Suggestion, counted, issue, ok, plain


def test_outcome_without_its_parts_raises():
    with pytest.raises(ValueError, match="evidence"):
        issue("x", "lr=1", [], datapoints=1)
    with pytest.raises(ValueError, match="suggestion"):
        issue("x", "", [Evidence("y")], datapoints=1)
    with pytest.raises(ValueError, match="single observation"):
        ok("x", datapoints=0)


def test_plain_converts_anything_to_json():
    assert plain({"a": float("nan"), 1: (Status.OK, None)}) == {"a": "nan", "1": ["ok", None]}


def test_finding_to_json_has_suggestion_and_override():
    outcome = issue("x", Suggestion("lower it", "lr", 0.1), [Evidence("y", value=float("inf"))], datapoints=1)
    written = Finding("Rule", "data", outcome, {"limit": (1, None)}).to_json()
    assert written["override"] == "lr=0.1"
    assert written["suggestion"] == {"action": "lower it", "setting": "lr", "value": 0.1}
    assert written["evidence"][0]["value"] == "inf"


def test_counted_noun_is_plural_unless_one():
    assert [counted(number, "epoch") for number in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
