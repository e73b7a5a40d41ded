"""Cached features as files: memory-mapped, written atomically by one process at a time, up to a size limit.

FOLDER/KEY/train.npy    float32 (N, D), a row for each image of the split
FOLDER/KEY/train.json   what the features describe, and why rows are missing; written last, features need it to count
FOLDER/KEY.lock         held by the process that computes; the kernel releases it when that process ends
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.errors import UserError
from dogbreed.system.atomic import atomic_write
from dogbreed.system.locks import file_lock, reserve_space

log = logging.getLogger(__name__)

_CHECKED_ROWS = 16_384
"""Rows that are read at a time to verify a file."""


@dataclass(frozen=True)
class Features:
    """Features of the images of one split."""

    values: NDArray[np.float32]
    """float32 (N, D), memory-mapped; zeros for skipped images."""
    problems: dict[int, str]
    """Position and reason of each skipped image."""


class DiskFullError(UserError):
    """The disk has no room for features; a training can run without them."""


class FeatureFiles:
    """The feature files of one backbone and one data set, in the folder of their content address `key`.

    Beyond `max_gb`, the least recently used features of other keys are deleted.
    """

    def __init__(self, folder: Path, key: str, max_gb: float) -> None:
        self.folder = folder
        self.path = folder / key
        self.max_gb = max_gb
        self._in_memory: dict[str, Features] = {}
        self._verified: set[str] = set()

    def open(self, name: str) -> Features | None:
        """Returns the features `name`, None if they are missing or incomplete."""
        if name in self._in_memory:
            return self._in_memory[name]
        try:
            description = json.loads(self._file(name, "json").read_text())
            values = np.load(self._file(name, "npy"), mmap_mode="r")
            os.utime(self.path)  # marks them as recently used
        except (OSError, ValueError):
            return None
        if name not in self._verified:
            if description.get("checksum") != _checksum(values):
                log.warning("features %s are damaged: computing them again", self._file(name, "npy"))
                return None
            self._verified.add(name)
        return _features(values, description["problems"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of these features, after waiting for any process that computes them.

        Raises:
            UserError: The folder is not writable.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(self.path.with_suffix(".lock"), on_wait=_log_wait))
            except OSError as error:
                raise UserError(_write_error(self.folder, error)) from None
            yield

    @contextmanager
    def writing(self, name: str, shape: tuple[int, int], description: dict[str, Any]) -> Iterator[NDArray[np.float32]]:
        """Yields zeros (N, D) to fill in; stores them when the block succeeds, unless it calls `keep_in_memory`.

        `description` is stored next to them; the block may still add to its `problems`.

        Raises:
            DiskFullError: The disk is full.
        """
        path, part = self._file(name, "npy"), self._file(name, "part")
        try:
            values = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            with part.open("r+b") as file:
                reserve_space(file, part.stat().st_size)
            yield values
            if name in self._in_memory:
                return  # the file is deleted, its memory map stays valid
            values.flush()
            part.replace(path)
            description = {**description, "checksum": _checksum(values)}
            atomic_write(self._file(name, "json"), lambda file: file.write_text(json.dumps(description, indent=1)))
        except OSError as error:
            kind = DiskFullError if error.errno == errno.ENOSPC else UserError
            raise kind(_write_error(self.folder, error)) from error
        finally:
            part.unlink(missing_ok=True)
        self._prune()

    def keep_in_memory(self, name: str, values: NDArray[np.float32], problems: dict[str, str]) -> None:
        """Serves these features from memory only; the next training recomputes them."""
        self._file(name, "json").unlink(missing_ok=True)
        self._in_memory[name] = _features(values, problems)

    def _file(self, name: str, suffix: str) -> Path:
        return self.path / f"{name}.{suffix}"

    def _prune(self) -> None:
        """Deletes the least recently used features of other keys until the folder is within its limit."""
        others = [path for path in self.folder.iterdir() if path.is_dir() and path != self.path]
        total = _size(self.path) + sum(map(_size, others))
        for path in sorted(others, key=lambda path: path.stat().st_mtime):
            if total <= self.max_gb * 1e9:
                return
            log.info("features.max_gb=%g: deleting the least recently used features, %s", self.max_gb, path)
            total -= _size(path)
            shutil.rmtree(path, ignore_errors=True)


def _features(values: NDArray[np.float32], problems: dict[str, str]) -> Features:
    return Features(np.asarray(values), {int(row): reason for row, reason in problems.items()})


def _checksum(values: NDArray[np.float32]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(values), _CHECKED_ROWS):
        digest.update(np.ascontiguousarray(values[start : start + _CHECKED_ROWS]).data)
    return digest.hexdigest()


def _log_wait() -> None:
    log.info("another training computes the same features: waiting for it")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*"))


def _write_error(folder: Path, error: OSError) -> str:
    return (
        f"features.folder={folder} cannot be written ({error.strerror or error}): "
        "give another folder, or type features=off"
    )
