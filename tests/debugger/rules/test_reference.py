from __future__ import annotations

from dogbreed.debugger.rules.evaluate import all_rules
from dogbreed.debugger.rules.reference import rules_page


def test_reference_documents_every_rule_and_setting():
    text = rules_page()
    for rule in all_rules().values():
        section = text.partition(f"\n## {rule.name}\n")[2].partition("\n## ")[0]
        assert rule.description in section
        assert all(f"| `{setting}` | " in section for setting in rule.defaults), rule.name
        assert all(f"Input `{name}`" in section for name in (*rule.required, *rule.optional)), rule.name
        assert "`ok`" in section or "`issue`: " in section
        assert "\nSource: " in section and "Source: \n" not in section


def test_reference_shows_settings_of_reports():
    assert "| `ratio_threshold` | `0.1` | `0.5` | (val - train) / train above" in rules_page()
