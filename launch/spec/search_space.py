"""One Hydra override to one parameter range of SageMaker's automatic model tuning. Pure.

Hydra's sweep grammar in, the API's dicts out:

    lr=tag(log,interval(1e-4,1e-1))    ContinuousParameterRanges, Logarithmic
    batch_size=choice(16,32,64)        CategoricalParameterRanges
    epochs=int(interval(2,8))          IntegerParameterRanges
    model=glob(resnet*)                CategoricalParameterRanges over the choices of the group

Values travel as text in Hydra's own grammar, so that `KEY=VALUE` in the job means exactly what was typed here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep

from dogbreed.cli.overrides import parse
from dogbreed.errors import UserError
from launch.spec.contract import RESERVED, SAGEMAKER_PREFIXES, encode

MAX_VALUES = 30
"""Values that one categorical range may have (AMT)."""

MAX_VALUE_LENGTH = 256
"""Characters that one categorical value may have (AMT)."""

SCALINGS = {"linear": "Linear", "log": "Logarithmic", "reverse_log": "ReverseLogarithmic"}
"""Tag to the API's ScalingType; without a tag it is Auto."""


@dataclass(frozen=True)
class Range:
    """What is searched for one key."""

    key: str
    """As typed, with `+` or `++`: `lr`, `+model.kwargs.drop_rate`."""
    kind: str
    """`Continuous`, `Integer` or `Categorical`."""
    values: tuple[str, ...]
    """The choices, or the lowest and the highest value, as text in Hydra's grammar."""
    scaling: str = "Auto"
    """`Auto`, `Linear`, `Logarithmic` or `ReverseLogarithmic`; of no meaning for choices."""

    @property
    def name(self) -> str:
        """The hyperparameter's name in the job: the key with nothing that a shell or SageMaker would trip over."""
        return re.sub(r"\W+", "_", self.key, flags=re.ASCII).strip("_")

    @property
    def bare_key(self) -> str:
        """The key as the config has it, without `+` or `++`."""
        return self.key.lstrip("+")

    def __str__(self) -> str:
        if self.kind == "Categorical":
            return ", ".join(self.values)
        scale = "" if self.scaling == "Auto" else f", {self.scaling.lower()}"
        return (
            f"{self.values[0]} to {self.values[1]} ({'whole numbers' if self.kind == 'Integer' else 'numbers'}{scale})"
        )


def split_overrides(
    overrides: Sequence[str],
    declared: Mapping[str, str],
    options: Callable[[str], Sequence[str]] = lambda group: (),
    is_integer: Callable[[str], bool] = lambda key: False,
) -> tuple[list[str], list[Range]]:
    """Returns the overrides that fix something, as typed, and the ranges of those that search.

    Args:
        overrides: as typed, `KEY=VALUE` or `KEY=SWEEP`.
        declared: key to sweep, for `KEY=range` (conf/search).
        options: the choices of a config group, for `glob`.
        is_integer: whether a key's value in the config is a whole number; its interval then gives whole numbers.

    Raises:
        UserError: a range that cannot be searched; the message says what to type.
    """
    fixed, ranges = [], []
    for override in parse(overrides):
        if override.value() == "range":
            override = _declared(override, declared)  # noqa: PLW2901 - from here on it is as if that had been typed
        if override.is_sweep_override():
            ranges.append(_range(override, options, is_integer))
        else:
            fixed.append(str(override.input_line))
    for r in ranges:
        if r.name in RESERVED or r.name.startswith(SAGEMAKER_PREFIXES):
            raise UserError(f"{r.key} cannot be searched: a job has a hyperparameter {r.name} already; rename the key")
    for key in {r.bare_key for r in ranges}:
        if sum(r.bare_key == key for r in ranges) > 1:
            raise UserError(f"{key} is searched twice: keep one of the two")
    taken = {r.bare_key for r in ranges}
    return [text for text in fixed if text.partition("=")[0].lstrip("+") not in taken], ranges


def _declared(override: Override, declared: Mapping[str, str]) -> Override:
    key = override.key_or_group
    if key not in declared:
        raise UserError(
            f"{key}=range: no range is declared for {key} (declared: {', '.join(declared)}); "
            f"type one, for example '{key}=interval(0,1)', or declare it with '+search.{key}=\"interval(0,1)\"'"
        )
    return parse([f"{override.get_key_element()}={declared[key]}"])[0]


def _range(override: Override, options: Callable[[str], Sequence[str]], is_integer: Callable[[str], bool]) -> Range:
    key, sweep, text = override.get_key_element(), override.value(), override.input_line
    if isinstance(sweep, (IntervalSweep, RangeSweep)):
        ends = (sweep.start, sweep.end if isinstance(sweep, IntervalSweep) else sweep.stop)
        if not all(end is not None and abs(end) <= sys.float_info.max for end in ends):
            raise UserError(f"'{text}': give two finite numbers as its ends, as in '{key}=interval(1,10)'")
    if isinstance(sweep, RangeSweep) and not sweep.step:
        raise UserError(f"'{text}': a step of 0 leads nowhere; type '{key}=range({sweep.start},{sweep.stop})'")
    if isinstance(sweep, IntervalSweep):
        return _interval(override, sweep, is_integer(override.key_or_group))
    if isinstance(sweep, Glob):
        values: list[Any] = list(sweep.filter(list(options(override.key_or_group))))
    elif isinstance(sweep, RangeSweep):
        values = [int(v) if isinstance(v, int) else float(v) for v in sweep.range()]
    else:
        values = list(sweep.list)  # type: ignore[union-attr]
    texts = tuple(dict.fromkeys(encode(value) for value in values))
    if not texts:
        raise UserError(f"'{text}' matches nothing; choices: {', '.join(options(override.key_or_group)) or 'none'}")
    if len(texts) > MAX_VALUES:
        raise UserError(
            f"'{key}' has {len(texts)} choices, SageMaker searches at most {MAX_VALUES}: give fewer, "
            f"or an interval: '{key}=interval({texts[0]},{texts[-1]})'"
        )
    if longest := [value for value in texts if len(value) > MAX_VALUE_LENGTH]:
        raise UserError(
            f"'{key}': a choice may have {MAX_VALUE_LENGTH} characters, this has {len(longest[0])}: {longest[0]}"
        )
    return Range(key, "Categorical", texts)


def _interval(override: Override, sweep: IntervalSweep, integer_key: bool) -> Range:
    key, low, high = override.get_key_element(), sweep.start, sweep.end
    assert low is not None and high is not None
    if low > high:
        raise UserError(
            f"'{key}=interval({low:g},{high:g})' has its ends the wrong way round: "
            f"type '{key}=interval({high:g},{low:g})'"
        )
    if low == high:
        raise UserError(f"'{key}=interval({low:g},{high:g})' holds a single value: type '{key}={low:g}'")
    scalings = [SCALINGS[tag] for tag in sorted(sweep.tags) if tag in SCALINGS]
    if unknown := sorted(sweep.tags - SCALINGS.keys()):
        raise UserError(f"'{override.input_line}': tag {unknown[0]!r} has no meaning; tags: {', '.join(SCALINGS)}")
    if len(scalings) > 1:
        raise UserError(f"'{override.input_line}': give one of the tags {', '.join(SCALINGS)}, not several")
    scaling = scalings[0] if scalings else "Auto"
    if scaling == "Logarithmic" and low <= 0:
        raise UserError(
            f"'{override.input_line}': a log scale needs a lowest value above 0; "
            f"type '{key}=tag(log,interval(1e-5,{high:g}))'"
        )
    if scaling == "ReverseLogarithmic" and not 0 <= low < high < 1:
        raise UserError(f"'{override.input_line}': a reverse_log scale needs 0 <= lowest < highest < 1")
    whole = isinstance(low, int) and isinstance(high, int)
    if whole or (integer_key and low == int(low) and high == int(high)):
        return Range(key, "Integer", (str(int(low)), str(int(high))), scaling)
    if integer_key:
        raise UserError(
            f"'{override.input_line}': {key} is a whole number; type '{key}=interval({round(low)},{round(high)})'"
        )
    return Range(key, "Continuous", (repr(float(low)), repr(float(high))), scaling)
