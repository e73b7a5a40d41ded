import os
import sys

import pytest

from dogbreed.cli.command import run_cli


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_run_cli_sets_huge_pages_only_if_unset(monkeypatch, given, expected):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", given or "")  # restores the variable after the test
    if given is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit):
        run_cli(lambda overrides: None, "")
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == expected
