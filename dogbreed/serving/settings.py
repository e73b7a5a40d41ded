"""What an endpoint is told by environment variables, as CreateModel's Environment hands them to a container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dogbreed.errors import UserError


class Settings(NamedTuple):
    """Of an endpoint. The last two are those of the server of this machine."""

    top_k: int = 5
    """How many classes a JSON answer names."""
    as_index: bool = False
    """Answer the class's number alone, counted from 0 in the order of the card's classes."""
    default_accept: str = "application/json"
    """Content type of the answer where the client names none."""
    max_batch: int = 16
    """Images that go through the network at once."""
    max_waiting: int = 128
    """Images that may be inside before requests are refused."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Returns what `DOGBREED_TOP_K`, `DOGBREED_ANSWER`, `DOGBREED_MAX_BATCH` and `DOGBREED_MAX_WAITING` say.

        Raises:
            UserError: one of them says something that is not allowed.
        """
        answer = environ.get("DOGBREED_ANSWER", "label")
        if answer not in ("label", "index"):
            raise UserError(f"DOGBREED_ANSWER={answer}: not allowed; allowed: label, index")
        return cls(
            _number(environ, "DOGBREED_TOP_K", cls._field_defaults["top_k"]),
            answer == "index",
            environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", cls._field_defaults["default_accept"]),
            _number(environ, "DOGBREED_MAX_BATCH", cls._field_defaults["max_batch"]),
            _number(environ, "DOGBREED_MAX_WAITING", cls._field_defaults["max_waiting"]),
        )


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, str(default))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"{name}={text}: must be a whole number of at least 1")
    return int(text)
