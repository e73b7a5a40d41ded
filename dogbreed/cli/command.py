"""Runs a function as a command: help, exit statuses, one-line errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from omegaconf.errors import ConfigAttributeError

from dogbreed.cli.groups import describe_groups
from dogbreed.errors import UserError


def enable_huge_pages() -> None:
    """Sets the default of torch's THP_MEM_ALLOC_ENABLE: huge pages for large CPU tensors on Linux.

    torch reads it when it creates its first tensor. Processes that this one starts inherit it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def run_cli(main: Callable[[list[str]], int | None], doc: str | None) -> None:
    """Runs `main(overrides)` as a command: `--help` prints `doc`, a `UserError` is one line, exit status 2."""
    enable_huge_pages()
    overrides = sys.argv[1:]
    if any(word in ("-h", "--help") for word in overrides):
        print((doc or "").strip())
        print(f"\nGroups and choices (GROUP=CHOICE):\n{describe_groups()}")
        sys.exit(0)
    try:
        sys.exit(main(overrides))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ConfigAttributeError as error:  # check() cannot know what each command reads
        print(f"error: key '{error.full_key}' is needed: leave out ~{error.full_key}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
