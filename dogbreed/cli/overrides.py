"""Hydra overrides: text in, parsed overrides out."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from dogbreed.errors import UserError


def parse(overrides: Sequence[str]) -> list[Override]:
    """Returns `overrides` as Hydra reads them.

    Raises:
        UserError: one of them is not in Hydra's override grammar; the message names it.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            key, equals, value = text.partition("=")
            hint = (
                f"""quote it: '{key}="{value}"'""" if equals and "(" not in value else "type KEY=VALUE, as in lr=0.01"
            )
            raise UserError(f"cannot read '{text}' ({str(error).splitlines()[0]}); {hint}") from None
    return parsed
