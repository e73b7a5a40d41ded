from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dogbreed.debugger.read.sources import read_any, run_folders
from dogbreed.errors import UserError


def test_read_any_old_job_with_a_profile_only(run_copy: Path):
    shutil.rmtree(run_copy / "debug")
    recording = read_any(run_copy)
    assert "no debug-output" in recording.problems[0]
    assert "system" in recording.inputs


def test_read_any_empty_folder_names_what_is_expected(tmp_path: Path):
    with pytest.raises(UserError, match="debug-output/"):
        read_any(tmp_path)


def test_run_folders_are_found_below_a_sweep(finished_run: Path, tmp_path: Path):
    for trial in ("sweep-001", "sweep-002"):
        shutil.copytree(finished_run, tmp_path / "sweep" / trial / "ml" / "output" / "data")
    found = run_folders(tmp_path / "sweep")
    assert [path.relative_to(tmp_path / "sweep").parts[0] for path in found] == ["sweep-001", "sweep-002"]
