"""Appends rows to a JSON Lines file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


class JsonLines:
    """Appends rows to a file of JSON lines; the first row creates it and its folder.

    NaN and Infinity are written as Python's json module writes and reads them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row, buffered until `flush` or `close`."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            if _ends_inside_a_line(self.path):
                self._file.write("\n")
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def flush(self) -> None:
        """Writes buffered rows to disk."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Closes the file; the next row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _ends_inside_a_line(path: Path) -> bool:
    """Returns whether the last line has no newline: a killed process may have written half of it."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
