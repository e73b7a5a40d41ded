"""File locks between processes and disk space reservation, on Linux, macOS and Windows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

_POLL_S = 0.01


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Holds an exclusive lock on `path` for the block; the kernel releases it if the process is killed.

    Args:
        path: The lock file, created if missing and kept afterwards.
        on_wait: Called once if another process or thread holds the lock.

    Raises:
        OSError: the lock file cannot be created.
    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if on_wait:
            on_wait()
        lock.acquire(poll_interval=_POLL_S)
    try:
        yield
    finally:
        lock.release()


def reserve_space(file: IO[bytes], num_bytes: int) -> None:
    """Allocates disk space for the first `num_bytes` of an open file, so that a full disk fails here.

    Without it, writing through a memory map to a full disk ends the process with SIGBUS. Does nothing on macOS and
    Windows, which have no `posix_fallocate`.

    Raises:
        OSError: the disk has no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
