"""Features in files: memory-mapped, written as a whole or not at all, by one process at a time, up to a size.

FOLDER/KEY/train.npy    float32 (N, D), a row for each image of the split
FOLDER/KEY/train.json   what they are of, and why rows are missing; written last, and nothing counts without it
FOLDER/KEY.lock         held by the process that computes; the kernel lets go of it however that process ends
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """Of the images of one split."""

    values: NDArray[np.float32]
    """float32 (N, D), memory-mapped; zeros where there is a problem."""
    problems: dict[int, str]
    """Position and reason of each image that could not be read."""


class FeatureFiles:
    """The features of one backbone and one set of images.

    Args:
        folder: That all of them share.
        key: Of these.
        max_gb: What the folder may hold.
    """

    def __init__(self, folder: Path, key: str, max_gb: float) -> None:
        self.folder = folder
        self.place = folder / key
        self.max_gb = max_gb
        self._once: dict[str, Features] = {}

    def open(self, name: str) -> Features | None:
        """Returns the features `name`, None where they are not there as a whole."""
        if name in self._once:
            return self._once[name]
        try:
            known = json.loads(self._path(name, "json").read_text())
            values = np.load(self._path(name, "npy"), mmap_mode="r")
            os.utime(self.place)  # what was used last is kept longest
        except (OSError, ValueError):
            return None
        return _features(values, known["problems"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Waits until no other process computes these features, and keeps others from it until the block ends.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.place.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(_not_written(self.folder, error)) from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another training computes the same features: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def writing(self, name: str, shape: tuple[int, int], about: dict[str, Any]) -> Iterator[NDArray[np.float32]]:
        """Yields zeros (N, D) to be filled in; they are kept if the block ends well and does not `use_once`.

        Args:
            name: Of the features.
            shape: N and D.
            about: What is written beside them; its `problems` may be filled in the block.

        Raises:
            UserError: the disk has no room for them.
        """
        path, part = self._path(name, "npy"), self._path(name, "part")
        try:
            values = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            with part.open("r+b") as file:  # a full disk is to be met here, not as a SIGBUS later
                os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
            yield values
            if name in self._once:
                return  # the file is deleted, and its memory stays for as long as it is used
            values.flush()
            part.replace(path)
            self.note(name, about)
        except OSError as error:
            raise UserError(_not_written(self.folder, error)) from error
        finally:
            part.unlink(missing_ok=True)
        self._tidy()

    def use_once(self, name: str, values: NDArray[np.float32], problems: dict[str, str]) -> None:
        """Lets `open` give these, and `writing` keep no file: whoever comes next makes them anew."""
        self._path(name, "json").unlink(missing_ok=True)
        self._once[name] = _features(values, problems)

    def note(self, name: str, about: dict[str, Any]) -> None:
        """Declares the features `name` whole."""
        part = self._path(name, "json.part")
        part.write_text(json.dumps(about, indent=1))
        part.replace(self._path(name, "json"))

    def _path(self, name: str, suffix: str) -> Path:
        return self.place / f"{name}.{suffix}"

    def _tidy(self) -> None:
        """Deletes what was not used for longest, as far as the folder holds too much; who reads it can read on."""
        others = [place for place in self.folder.iterdir() if place.is_dir() and place != self.place]
        total = _size(self.place) + sum(map(_size, others))
        for place in sorted(others, key=lambda place: place.stat().st_mtime):
            if total <= self.max_gb * 1e9:
                return
            log.info("features.max_gb=%g: deleting features that were not used for longest, %s", self.max_gb, place)
            total -= _size(place)
            shutil.rmtree(place, ignore_errors=True)


def _features(values: NDArray[np.float32], problems: dict[str, str]) -> Features:
    plain = np.asarray(values)  # faster to index than a memory-mapped one
    return Features(plain, {int(row): reason for row, reason in problems.items()})


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.glob("*"))


def _not_written(folder: Path, error: OSError) -> str:
    return (
        f"features.folder={folder} cannot be written ({error.strerror or error}): "
        "give another one, or type features=off"
    )
