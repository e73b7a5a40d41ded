"""How torch allocates memory."""

from __future__ import annotations

import os


def enable_huge_pages() -> None:
    """Sets the default of torch's THP_MEM_ALLOC_ENABLE: huge pages for large CPU tensors on Linux.

    torch reads it when it creates its first tensor. Processes that this one starts inherit it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
