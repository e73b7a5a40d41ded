"""The error for mistakes in user input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the user's input: printed as one line with exit status 2, without a traceback.

    The message states what was given, what is allowed and what to type instead. Line breaks in it become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def did_you_mean(given: str, allowed: Iterable[str], label: str = "allowed") -> str:
    """Returns `; did you mean X?` if one of `allowed` is similar to `given`, else `; LABEL: ` and all of them."""
    options = sorted(set(allowed))
    close = difflib.get_close_matches(given, options, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; {label}: {', '.join(options)}"
