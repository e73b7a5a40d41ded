"""Runs a function as a command: help, exit statuses, one-line errors."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from omegaconf.errors import ConfigAttributeError

from dogbreed.cli.reference import help_text
from dogbreed.cli.schema import Schema
from dogbreed.errors import UserError
from dogbreed.system.memory import enable_huge_pages


def run_cli(
    main: Callable[[list[str]], int | None],
    doc: str | None,
    schema: Schema | None = None,
    config_name: str | None = None,
) -> None:
    """Runs `main(argv)` as a command and exits with its status; a `UserError` is one line, with exit status 2.

    Args:
        main: The command.
        doc: Its description, which `--help` prints.
        schema: The settings that it takes, which `--help` lists.
        config_name: File in `conf/` that it composes, whose config groups `--help` lists.
    """
    enable_huge_pages()
    argv = sys.argv[1:]
    if any(word in ("-h", "--help") for word in argv):
        with contextlib.suppress(BrokenPipeError):  # `--help | head` closes the pipe early
            print(help_text(doc or "", schema or {}, config_name), flush=True)
            sys.exit(0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes standard output again
        sys.exit(0)
    try:
        sys.exit(main(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ConfigAttributeError as error:  # an override has deleted a key; check() cannot know what a command reads
        print(f"error: key '{error.full_key}' is needed: omit ~{error.full_key}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
