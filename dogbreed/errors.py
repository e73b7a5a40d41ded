"""The one error of this project that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: printed as one line, exit status 2, never a traceback.

    The message says what was given, what is allowed, and what to type instead.
    """


def did_you_mean(given: str, allowed: Iterable[str], label: str = "allowed") -> str:
    """Returns `; did you mean X?` if one of `allowed` is similar to `given`, else `; LABEL: ` and all of them."""
    options = sorted(set(allowed))
    close = difflib.get_close_matches(given, options, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; {label}: {', '.join(options)}"
