"""Atomic file writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file atomically: readers see the old file or the complete new one.

    Args:
        path: The file to create or replace.
        write: Called with a temporary path in the same folder. If it raises, `path` keeps its old content, the
            temporary file is deleted and the exception propagates.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
