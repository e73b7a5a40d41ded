"""What a backend hides from the rest of the launcher."""

import re

from tests.paths import ROOT


def test_only_backends_and_the_local_service_know_which_backend_is_used():
    wrong = [
        str(path.relative_to(ROOT))
        for folder in ("launch", "hydra_plugins")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / "launch" / "backends")
        and not path.is_relative_to(ROOT / "launch" / "local")
        and re.search(r"backend\.name\b", path.read_text())
    ]
    assert wrong == []
