import os
from pathlib import Path

import pytest

from dogbreed.serving import server


def test_server_enables_huge_pages_unless_they_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for given, expected in ((None, "1"), ("0", "0")):
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")  # restored after the test
        if given is None:
            monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
        assert server.main(["--model-dir", str(tmp_path / "missing")]) == 1
        assert os.environ["THP_MEM_ALLOC_ENABLE"] == expected
