"""Errors of a transfer, and free space on disks."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from dogbreed.errors import UserError


class TransferError(Exception):
    """The network or a disk failed. Files already transferred are kept, so that the same command resumes."""


def check_free_space(folder: Path, num_bytes: int) -> None:
    """Checks that `num_bytes` fit on the disk of `folder`, which may not exist yet.

    Raises:
        UserError: They do not fit.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise UserError(f"{existing} has {free / 1e6:,.0f} MB of free space, {num_bytes / 1e6:,.0f} MB are needed")


def write_error(path: Path, error: OSError) -> Exception:
    """Returns what to raise after a failed write: `TransferError` for a full disk, else `UserError`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransferError(f"the disk of {path.parent} is full")
    return UserError(f"{path} cannot be written: {error.strerror}")
