import os
import subprocess
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


def test_help_in_a_closed_pipe_is_quiet():
    program = [
        sys.executable,
        "-c",
        "from dogbreed.cli.command import run_cli; run_cli(len, 'text ' * 99999)",
        "--help",
    ]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        started.stdout.read(9)
        started.stdout.close()
        assert started.stderr.read() == ""
    assert started.returncode == 0
