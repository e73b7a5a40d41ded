"""Shared by all commands: parsing of argv into names, flags and overrides, and exit statuses."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from dogbreed.errors import UserError

SUCCESS, FAILURE = 0, 1
"""Exit status; 2 is a mistake on the command line, 128 + N is signal N."""

_OVERRIDE = re.compile(r"[-+~]*[\w.@]+=")
"""KEY=VALUE, unlike a URL or path that contains `=`."""


class Args(NamedTuple):
    """The arguments of a command."""

    names: list[str]
    """Arguments that are neither overrides nor flags."""
    overrides: list[str]
    """Arguments of the form KEY=VALUE."""
    flags: frozenset[str]
    """The known flags that were given."""

    def one_name(self, usage: str) -> str:
        """Returns the only name; the error message shows `usage`, the correct command line.

        Raises:
            UserError: There is none, or more than one.
        """
        if len(self.names) != 1:
            raise UserError(f"give one name, got {' '.join(self.names) or 'none'}: {usage}")
        return self.names[0]

    def optional_name(self) -> str | None:
        """Returns the only name; None if there is none.

        Raises:
            UserError: There is more than one.
        """
        if len(self.names) > 1:
            raise UserError(f"give at most one name, got {' '.join(self.names)}")
        return self.names[0] if self.names else None


def split_argv(argv: Sequence[str], flags: Collection[str] = ()) -> Args:
    """Returns the arguments of a command by kind; `flags` are those that it accepts, such as `--follow`."""
    overrides = [word for word in argv if _OVERRIDE.match(word)]
    names = [word for word in argv if word not in overrides and word not in flags]
    return Args(names, overrides, frozenset(argv) & frozenset(flags))
