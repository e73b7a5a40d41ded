"""Declares settings as dataclass fields and checks values against the declarations.

A field carries its type, default, bounds or choices, a one-sentence description and, if a sweep may search it by name,
its default search range. The command line, its help, the configuration reference and the library classes all read that
one declaration:

    @dataclass
    class Hyperparameters:
        lr: float = setting(1e-3, "Peak learning rate.", low=0, search="tag(log,interval(1e-4,1e-1))")
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from dogbreed.errors import UserError, did_you_mean

REQUIRED = "???"
"""Default of a setting that must be given; OmegaConf's marker for a missing value."""

_NUMBERS = (int, float)
_ACCEPTED: dict[type, type | tuple[type, ...]] = {list: (list, tuple), dict: Mapping}
_MAX_SHOWN = 60
"""Characters of a rejected value that an error message repeats."""


@dataclass(frozen=True)
class Setting:
    """The declaration of one dataclass field.

    Attributes:
        name: Name of the field.
        kind: `int`, `float`, `bool`, `str`, `list`, `dict`, a dataclass of nested settings, or `object` if there are
            `alternatives`.
        optional: Whether null is allowed.
        default: Default value; `REQUIRED` if there is none.
        doc: One sentence on the meaning, with units and special values.
        low: Smallest allowed number.
        high: Largest allowed number.
        above: Exclusive lower bound, instead of `low`.
        choices: Allowed values other than null; empty if any value within the bounds is allowed.
        search: Default search range in Hydra's sweep grammar; None if there is none.
        items: Type of the items of a list; None if any item is allowed.
        alternatives: The declarations for each type, if values of several types are allowed: `int | str`.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()
    search: str | None = None
    items: type | None = None
    alternatives: tuple[Setting, ...] = ()

    @property
    def allowed(self) -> str:
        """The allowed values in words: `a whole number of at least 1`, `one of skip, raise`."""
        if self.alternatives:
            words = " or ".join(option.allowed for option in self.alternatives)
        elif self.choices:
            words = f"{'one of ' if len(self.choices) > 1 else ''}{', '.join(map(show_value, self.choices))}"
        elif self.kind in _NUMBERS:
            words = f"a {'whole ' if self.kind is int else ''}number{self._bounds}"
        else:
            names = {bool: "true or false", str: "text", list: "a list", dict: "entries by name"}
            words = names.get(self.kind, "settings by name")
        return f"{words} or null" if self.optional else words

    @property
    def _bounds(self) -> str:
        if self.above is not None:
            return f" above {_number(self.above)}" + ("" if self.high is None else f", up to {_number(self.high)}")
        if self.low is not None and self.high is not None:
            return f" from {_number(self.low)} to {_number(self.high)}"
        if self.low is not None:
            return f" of at least {_number(self.low)}"
        return "" if self.high is None else f" of at most {_number(self.high)}"

    def check(self, value: object, key: str) -> Any:
        """Returns `value` as the declared type.

        Args:
            value: The given value, as plain data.
            key: Full name of the setting in error messages.

        Raises:
            UserError: The value has another type, is out of bounds, or is not among the choices.
        """
        if value is None and self.optional:
            return None
        if self.alternatives:
            return self._check_alternatives(value, key)
        if self.kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)  # a name such as 2024 is read as a number
        if self.choices:
            return self._check_choice(value, key)
        if self.kind in _NUMBERS:
            return self._check_number(value, key)
        if isinstance(value, _ACCEPTED.get(self.kind, self.kind)):
            return value if self.items is None else self._check_items(value, key)
        if self.kind is dict:
            raise UserError(f"{key}={show_value(value)}: give each entry by its name, type +{key}.NAME=VALUE")
        if self.kind is list:
            raise UserError(f"{key}={show_value(value)}: must be a list, type '{key}=[a,b]'")
        raise UserError(f"{key}={show_value(value)}: must be {self.allowed}")

    def _check_alternatives(self, value: object, key: str) -> Any:
        for option in self.alternatives:
            try:
                return option.check(value, key)
            except UserError:
                continue
        raise UserError(f"{key}={show_value(value)}: must be {self.allowed}")

    def _check_items(self, values: Any, key: str) -> list[Any]:
        item = Setting(self.name, self.items or object, False, None, "")
        try:
            return [item.check(value, key) for value in values]
        except UserError as error:
            raise UserError(f"{error} in each entry of the list") from None

    def _check_choice(self, value: object, key: str) -> object:
        if isinstance(value, bool) or value not in self.choices:
            options = [show_value(choice) for choice in (*self.choices, *([None] if self.optional else []))]
            raise UserError(f"{key}={show_value(value)}: not allowed{did_you_mean(show_value(value), options)}")
        return value

    def _check_number(self, value: object, key: str) -> int | float:
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
        valid = math.isfinite(number) and (self.kind is float or number % 1 == 0)
        valid &= (self.low is None or number >= self.low) and (self.high is None or number <= self.high)
        if not valid or (self.above is not None and number <= self.above):
            raise UserError(f"{key}={show_value(value)}: must be {self.allowed}")
        return int(number) if self.kind is int else number


def setting(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[Any] = (),
    search: str | None = None,
) -> Any:
    """Declares one dataclass field; see `Setting` for the arguments. Lists and dicts are copied for each instance."""
    metadata = {"doc": doc, "low": low, "high": high, "above": above, "choices": tuple(choices), "search": search}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def nested(kind: type) -> Any:
    """Declares a dataclass field that holds the settings of dataclass `kind`, whose docstring describes it."""
    return dataclasses.field(default_factory=kind, metadata={"doc": inspect.cleandoc(kind.__doc__ or "")})


@cache
def declared(kind: type) -> tuple[Setting, ...]:
    """Returns the settings of dataclass `kind`, in the order of its fields."""
    hints = typing.get_type_hints(kind)
    return tuple(_declaration(field, hints[field.name]) for field in dataclasses.fields(kind))


def _declaration(field: dataclasses.Field[Any], hint: Any) -> Setting:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    given = [option for option in options if option is not type(None)]
    factory: Any = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    if len(given) == 1:
        whole = Setting(field.name, given[0], len(options) > 1, default, **field.metadata)
        return _of_type(whole, given[0])
    whole = Setting(field.name, object, type(None) in options, default, **field.metadata)
    plain = replace(whole, optional=False)
    words = tuple(_of_type(plain if option is str else replace(plain, choices=()), option) for option in given)
    return replace(whole, choices=(), alternatives=words)


def _of_type(item: Setting, hint: Any) -> Setting:
    kind = typing.get_origin(hint) or hint
    (entry,) = typing.get_args(hint) if kind is list else (None,)
    return replace(item, kind=kind, items=None if entry is Any else entry)


def defaults(kind: type) -> dict[str, Any]:
    """Returns the default values of dataclass `kind` as plain data, nested settings as dicts."""
    return {
        item.name: defaults(item.kind) if dataclasses.is_dataclass(item.kind) else item.default
        for item in declared(kind)
    }


def check(kind: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `values`, converted to their declared types.

    Args:
        kind: The dataclass that declares them.
        values: Plain data; names that `kind` does not declare are ignored.
        prefix: Name of the group in error messages, with its dot: `data.`.

    Raises:
        UserError: A value is not allowed; the message names the key, the value and what is allowed.
    """
    checked = {}
    for item in declared(kind):
        if item.name not in values:
            continue
        key, value = f"{prefix}{item.name}", values[item.name]
        if not dataclasses.is_dataclass(item.kind):
            checked[item.name] = item.check(value, key)
        elif isinstance(value, Mapping):
            checked[item.name] = check(item.kind, value, f"{key}.")
        else:
            example = f"{key}.{declared(item.kind)[0].name}=VALUE"
            raise UserError(f"{key}={show_value(value)}: give each setting by its name, type {example}")
    return checked


def pick(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of `values` that dataclass `kind` declares: the arguments that make it."""
    return {item.name: values[item.name] for item in declared(kind) if item.name in values}


def show_value(value: object) -> str:
    """Returns `value` as it is typed on the command line, shortened: `null`, `true`, `0.1`."""
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
