"""Parses Hydra sweeps into search parameters of SageMaker's automatic model tuning (AMT).

    lr=tag(log,interval(1e-4,1e-1))    Continuous, Logarithmic
    batch_size=choice(16,32,64)        Categorical
    epochs=int(interval(2,8))          Integer
    model=glob(resnet*)                Categorical, over the choices of the group

Values stay text in Hydra's grammar, so `KEY=VALUE` means the same in the job as on the command line.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep

from dogbreed.cli.overrides import is_sweep, parse
from dogbreed.errors import UserError
from launch.spec.contract import RESERVED, SAGEMAKER_PREFIXES, encode

MAX_VALUES = 30
"""Values of one categorical parameter that AMT allows."""

MAX_VALUE_LENGTH = 256
"""Characters of one categorical value that AMT allows."""

SCALINGS = {"linear": "Linear", "log": "Logarithmic", "reverse_log": "ReverseLogarithmic"}
"""Hydra tag to the API's ScalingType; without a tag it is Auto."""


@dataclass(frozen=True)
class SearchParameter:
    """One key and the values that are searched for it."""

    key: str
    """Config key with its `+` or `++`: `lr`, `+model.kwargs.drop_rate`."""
    kind: str
    """`Continuous`, `Integer` or `Categorical`."""
    values: tuple[str, ...]
    """All choices if categorical, else the lowest and the highest value, as text in Hydra's grammar."""
    scaling: str = "Auto"
    """`Auto`, `Linear`, `Logarithmic` or `ReverseLogarithmic`; unused if categorical."""

    @property
    def name(self) -> str:
        """Name of the hyperparameter: the key with `_` for each run of other characters than letters and digits."""
        return re.sub(r"\W+", "_", self.key, flags=re.ASCII).strip("_")

    @property
    def bare_key(self) -> str:
        """The key without `+` or `++`."""
        return self.key.lstrip("+")

    def __str__(self) -> str:
        if self.kind == "Categorical":
            return ", ".join(self.values)
        kind = "integers" if self.kind == "Integer" else "numbers"
        scale = "" if self.scaling == "Auto" else f", {self.scaling.lower()}"
        return f"{self.values[0]} to {self.values[1]} ({kind}{scale})"


def combinations(parameters: Sequence[SearchParameter]) -> int | None:
    """Returns the number of points in the search space; None if it has an interval."""
    if any(parameter.kind != "Categorical" for parameter in parameters):
        return None
    return math.prod(len(parameter.values) for parameter in parameters)


def split_overrides(
    overrides: Sequence[Override],
    declared: Mapping[str, str],
    options: Callable[[str], Sequence[str]] = lambda group: (),
    is_integer: Callable[[str], bool] = lambda key: False,
) -> tuple[list[Override], list[SearchParameter]]:
    """Returns the overrides that fix a key, and a search parameter for each one that is a sweep.

    A fixed override of a key that is also searched is dropped.

    Args:
        overrides: Parsed overrides, `KEY=VALUE` or `KEY=SWEEP`.
        declared: Key to sweep, for `KEY=range` (conf/search).
        options: Returns the choices of a config group, for `glob`.
        is_integer: Whether the config's value of a key is an integer; its interval then has integers only.

    Raises:
        UserError: A sweep cannot be searched; the message contains the correction.
    """
    fixed, parameters = [], []
    for override in overrides:
        word = is_sweep(override) and not override.is_sweep_override()
        resolved = _declared(override, declared) if word else override
        if resolved.is_sweep_override():
            parameters.append(_search_parameter(resolved, options, is_integer))
        else:
            fixed.append(resolved)
    for parameter in parameters:
        if parameter.name in RESERVED or parameter.name.startswith(SAGEMAKER_PREFIXES):
            raise UserError(
                f"{parameter.key} cannot be searched: jobs have another hyperparameter {parameter.name}; rename the key"
            )
    searched = [parameter.bare_key for parameter in parameters]
    if twice := sorted({key for key in searched if searched.count(key) > 1}):
        raise UserError(f"{twice[0]} is searched twice: keep one of the two")
    return [override for override in fixed if override.get_key_element().lstrip("+") not in searched], parameters


def _declared(override: Override, declared: Mapping[str, str]) -> Override:
    """Returns the override with the declared sweep in place of `range`."""
    key = override.key_or_group
    if key not in declared:
        raise UserError(
            f"{key}=range: no range is declared for {key} (declared: {', '.join(declared)}); "
            f"type one, for example '{key}=interval(0,1)', or declare it with '+search.{key}=\"interval(0,1)\"'"
        )
    return parse([f"{override.get_key_element()}={declared[key]}"])[0]


def _search_parameter(
    override: Override, options: Callable[[str], Sequence[str]], is_integer: Callable[[str], bool]
) -> SearchParameter:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return _interval(override, sweep, is_integer(override.key_or_group))
    key = override.get_key_element()
    values = tuple(dict.fromkeys(encode(value) for value in _choices(override, sweep, options)))
    if not values:
        allowed = ", ".join(options(override.key_or_group)) or "none"
        raise UserError(f"'{override.input_line}' matches nothing; choices: {allowed}")
    if len(values) > MAX_VALUES:
        raise UserError(
            f"'{key}' has {len(values)} choices, SageMaker searches at most {MAX_VALUES}: give fewer, "
            f"or an interval: '{key}=interval({values[0]},{values[-1]})'"
        )
    if too_long := [value for value in values if len(value) > MAX_VALUE_LENGTH]:
        raise UserError(
            f"'{key}': a choice may have {MAX_VALUE_LENGTH} characters, this has {len(too_long[0])}: {too_long[0]}"
        )
    return SearchParameter(key, "Categorical", values)


def _choices(override: Override, sweep: Any, options: Callable[[str], Sequence[str]]) -> list[Any]:
    if isinstance(sweep, Glob):
        return list(sweep.filter(list(options(override.key_or_group))))
    if not isinstance(sweep, RangeSweep):
        return list(sweep.list)
    _check_finite(override, sweep.start, sweep.stop)
    if not sweep.step:
        key = override.get_key_element()
        raise UserError(
            f"'{override.input_line}': the step must not be 0; type '{key}=range({sweep.start},{sweep.stop})'"
        )
    return [int(value) if isinstance(value, int) else float(value) for value in sweep.range()]


def _check_finite(override: Override, *ends: float | None) -> None:
    if not all(end is not None and abs(end) <= sys.float_info.max for end in ends):
        key = override.get_key_element()
        raise UserError(f"'{override.input_line}': both ends must be finite numbers, as in '{key}=interval(1,10)'")


def _interval(override: Override, sweep: IntervalSweep, integer_key: bool) -> SearchParameter:
    _check_finite(override, sweep.start, sweep.end)
    key, low, high = override.get_key_element(), sweep.start, sweep.end
    assert low is not None and high is not None
    if low > high:
        raise UserError(
            f"'{key}=interval({low:g},{high:g})': the lower end comes first; type '{key}=interval({high:g},{low:g})'"
        )
    if low == high:
        raise UserError(f"'{key}=interval({low:g},{high:g})' contains a single value: type '{key}={low:g}'")
    scaling = _scaling(override, sweep, low, high)
    if (isinstance(low, int) and isinstance(high, int)) or (integer_key and low == int(low) and high == int(high)):
        return SearchParameter(key, "Integer", (str(int(low)), str(int(high))), scaling)
    if integer_key:
        raise UserError(
            f"'{override.input_line}': {key} must be an integer; type '{key}=interval({round(low)},{round(high)})'"
        )
    return SearchParameter(key, "Continuous", (repr(float(low)), repr(float(high))), scaling)


def _scaling(override: Override, sweep: IntervalSweep, low: float, high: float) -> str:
    """Returns the API's ScalingType for the tags of an interval."""
    text, tags = override.input_line, sorted(sweep.tags)
    if unknown := [tag for tag in tags if tag not in SCALINGS]:
        raise UserError(f"'{text}': tag {unknown[0]!r} is unknown; tags: {', '.join(SCALINGS)}")
    if len(tags) > 1:
        raise UserError(f"'{text}': give one of the tags {', '.join(SCALINGS)}, not several")
    scaling = SCALINGS[tags[0]] if tags else "Auto"
    if scaling == "Logarithmic" and low <= 0:
        key = override.get_key_element()
        raise UserError(
            f"'{text}': a log scale needs a lowest value above 0; type '{key}=tag(log,interval(1e-5,{high:g}))'"
        )
    if scaling == "ReverseLogarithmic" and not 0 <= low < high < 1:
        raise UserError(f"'{text}': a reverse_log scale needs 0 <= lowest < highest < 1")
    return scaling
