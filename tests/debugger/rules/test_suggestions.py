"""Every override that a rule can suggest composes and passes the checks of the command line."""

from __future__ import annotations

import ast

import pytest

from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.debugger.findings import Suggestion
from dogbreed.debugger.rules import suggestions
from tests.paths import ROOT

SETTINGS = {"lr": 0.01, "batch_size": 8, "weight_decay": 0.1, "cores": 4, "num_workers": 1, "epochs": 3}


def written_in_the_rules() -> set[str]:
    """Returns the overrides of all `Suggestion(action, setting, value)` with constant arguments."""
    texts = set()
    for path in (ROOT / "dogbreed" / "debugger" / "rules").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Suggestion":
                constants = [item.value for item in node.args if isinstance(item, ast.Constant)]
                if len(constants) == len(node.args) > 1:
                    texts.add(Suggestion(*constants).override)
    return texts


def computed_from(settings: dict) -> set[str]:
    return {
        suggestion.override
        for suggestion in (
            *(suggestions.learning_rate(settings, factor) for factor in (0.1, 0.3, 3, 10)),
            *(suggestions.batch_size(settings, factor) for factor in (0.5, 2)),
            *(function(settings) for function in (suggestions.weight_decay, suggestions.num_workers)),
            *(suggestions.longer_or_full({**settings, "finetune": finetune}) for finetune in ("head", "full")),
            suggestions.epochs(0),
        )
    }


@pytest.mark.parametrize("override", sorted(written_in_the_rules() | computed_from(SETTINGS) | computed_from({})))
def test_suggested_override_composes(override: str):
    key, _, value = override.partition("=")
    cfg = resolve_defaults(compose("train", ["data=folder", "data.url=nowhere", override]))
    for part in key.split("."):
        cfg = cfg[part]
    assert str(cfg).lower() == value or float(cfg) == float(value)


@pytest.mark.parametrize(
    ("suggestion", "text"),
    [
        (Suggestion("lower it", "lr", 0.00031234), "lr=0.000312"),
        (Suggestion("balance them", "data.balanced", True), "data.balanced=true"),
        (Suggestion("remove the copies"), "remove the copies"),
    ],
)
def test_suggestion_text_is_an_override_if_it_has_a_setting(suggestion: Suggestion, text: str):
    assert str(suggestion) == text
