"""Differences between backends are hidden from the rest of the launcher."""

import re

from tests.paths import ROOT


def test_only_backends_and_local_service_know_the_backend():
    wrong = [
        str(path.relative_to(ROOT))
        for folder in ("launch", "hydra_plugins")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / "launch" / "backends")
        and not path.is_relative_to(ROOT / "launch" / "local")
        and re.search(r"backend\.name\b", path.read_text())
    ]
    assert wrong == []
