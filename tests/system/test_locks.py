"""Locks and disk space on systems without POSIX calls."""

import os

from dogbreed.system.locks import file_lock, reserve_space


def test_reserve_space_without_posix_fallocate_does_nothing(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with (tmp_path / "file").open("wb") as file:
        reserve_space(file, 100)
    assert (tmp_path / "file").stat().st_size == 0


def test_file_lock_can_be_taken_again(tmp_path):
    for _ in range(2):
        with file_lock(tmp_path / "lock"):
            assert (tmp_path / "lock").exists()
