"""Hydra overrides: text in, parsed overrides out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from dogbreed.errors import UserError


class Overrides(tuple[Override, ...]):
    """Parsed overrides in the order given; each is an `Override` of Hydra's public API.

    Useful members: `key_or_group` (without `+`, `++` or `~`), `value()` (plain data, or the sweep object of a range),
    `is_sweep_override()`, `input_line` (the text).
    """

    __slots__ = ()

    @property
    def texts(self) -> list[str]:
        """The overrides as they were given."""
        return [str(override.input_line) for override in self]

    @property
    def values(self) -> dict[str, object]:
        """Key to value; the last one wins."""
        return {override.key_or_group: override.value() for override in self}

    @property
    def sweeps(self) -> Overrides:
        """Those that give several values, or the word `range`."""
        return Overrides(override for override in self if is_sweep(override))

    @property
    def fixed(self) -> Overrides:
        """Those that give one value."""
        return Overrides(override for override in self if not is_sweep(override))


def is_sweep(override: Override) -> bool:
    """Returns whether `override` gives several values, or the word `range`, which stands for the declared range."""
    declared = override.value() == "range" and override.key_or_group != "name"  # a sweep may be called range
    return override.is_sweep_override() or declared


def parse(overrides: Iterable[str] | Overrides) -> Overrides:
    """Returns `overrides` parsed; parsed ones are returned as they are.

    Raises:
        UserError: One of them is not in Hydra's override grammar; the message names it.
    """
    if isinstance(overrides, Overrides):
        return overrides
    texts, parser = list(overrides), OverridesParser.create()
    return Overrides(_parse(parser, texts, index) for index in range(len(texts)))


def _parse(parser: OverridesParser, texts: Sequence[str], index: int) -> Override:
    text = texts[index]
    if text.startswith("-"):
        raise UserError(f"'{text}': settings have no dashes; type {_without_dashes(texts, index)}")
    try:
        return parser.parse_override(text)
    except HydraException as error:
        key, equals, value = text.partition("=")
        hint = f"""quote it: '{key}="{value}"'""" if equals and "(" not in value else "type KEY=VALUE, as in lr=0.01"
        raise UserError(f"cannot read '{text}' ({str(error).splitlines()[0]}); {hint}") from None


def _without_dashes(texts: Sequence[str], index: int) -> str:
    """Returns what to type instead of `--lr 0.1` or `--lr=0.1`."""
    key, equals, value = texts[index].lstrip("-").partition("=")
    following = texts[index + 1] if index + 1 < len(texts) else ""
    if not equals and following and "=" not in following and not following.startswith("-"):
        value = following
    return f"{(key or 'KEY').replace('-', '_')}={value or 'VALUE'}"
