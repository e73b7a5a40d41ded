"""Settings of an endpoint, read from environment variables as SageMaker passes them from CreateModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dogbreed.errors import UserError


class Settings(NamedTuple):
    """Settings of an endpoint; `max_batch` and `max_waiting` apply to the local server alone."""

    top_k: int = 5
    """Classes per JSON answer."""
    as_index: bool = False
    """Answer with the class index alone, counted from 0 in the order of the card's classes."""
    default_accept: str = "application/json"
    """Content type of the response if the client accepts anything."""
    max_batch: int = 16
    """Images per forward pass."""
    max_waiting: int = 128
    """Images in pending requests above which new requests are rejected with 503."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Returns the settings from `DOGBREED_TOP_K`, `DOGBREED_ANSWER`, `DOGBREED_MAX_BATCH`,
        `DOGBREED_MAX_WAITING` and `SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT`.

        Raises:
            UserError: a variable has a value that is not allowed.
        """
        defaults = cls()
        answer = environ.get("DOGBREED_ANSWER", "label")
        if answer not in ("label", "index"):
            raise UserError(f"DOGBREED_ANSWER={answer}: not allowed; allowed: label, index")
        return cls(
            top_k=_positive_int(environ, "DOGBREED_TOP_K", defaults.top_k),
            as_index=answer == "index",
            default_accept=environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", defaults.default_accept),
            max_batch=_positive_int(environ, "DOGBREED_MAX_BATCH", defaults.max_batch),
            max_waiting=_positive_int(environ, "DOGBREED_MAX_WAITING", defaults.max_waiting),
        )


def _positive_int(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, str(default))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"{name}={text}: must be a whole number of at least 1")
    return int(text)
