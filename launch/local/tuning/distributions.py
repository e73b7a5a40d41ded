"""The `ParameterRanges` of a request as Optuna distributions, and their values as the text that a job gets.

A point is `{name: text}`: an integer as `16`, a float as `repr` writes it, a category unchanged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

AUTO_LOG_RATIO = 100.0
"""`Auto` scaling is logarithmic if the upper bound is at least this many times the lower one."""

Point = dict[str, str]


@dataclass(frozen=True)
class Parameter:
    """One searched hyperparameter."""

    name: str
    distribution: BaseDistribution
    reverse: bool = False
    """Whether Optuna searches 1 - x; on a logarithmic scale that is AMT's ReverseLogarithmic."""

    def text(self, value: Any) -> str:
        """Returns Optuna's value as the text that the job gets."""
        if self.reverse:
            return repr(1.0 - value)
        return repr(value) if isinstance(self.distribution, FloatDistribution) else str(value)

    def value(self, text: str) -> Any:
        """Returns the value that Optuna has for a job's text; None if it is outside the range."""
        if isinstance(self.distribution, CategoricalDistribution):
            return text if text in self.distribution.choices else None
        assert isinstance(self.distribution, (IntDistribution, FloatDistribution))
        try:
            number = 1.0 - float(text) if self.reverse else float(text)
        except ValueError:
            return None
        inside = min(max(number, self.distribution.low), self.distribution.high)
        if not math.isclose(inside, number, rel_tol=1e-9):  # 1 - (1 - x) can differ from x in the last digit
            return None
        if isinstance(self.distribution, FloatDistribution):
            return inside
        return int(number) if number.is_integer() else None

    def values(self) -> Sequence[Any] | None:
        """Returns every value of a finite parameter in order; None for a continuous one."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices
        if isinstance(self.distribution, IntDistribution):
            return range(self.distribution.low, self.distribution.high + 1)
        return None


@dataclass(frozen=True)
class Space:
    """All searched hyperparameters of a tuning job."""

    parameters: tuple[Parameter, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each parameter."""
        return {parameter.name: parameter.distribution for parameter in self.parameters}

    @property
    def size(self) -> float:
        """The number of points; infinite if a parameter is continuous."""
        return math.prod(math.inf if (values := p.values()) is None else len(values) for p in self.parameters)

    def points(self) -> Iterator[dict[str, Any]]:
        """Yields every point of a finite space as Optuna's values; the last parameter changes fastest."""
        axes = [parameter.values() or [] for parameter in self.parameters]
        for combination in itertools.product(*axes):
            yield {p.name: value for p, value in zip(self.parameters, combination, strict=True)}

    def texts(self, values: Mapping[str, Any]) -> Point:
        """Returns Optuna's values as the texts of a job."""
        return {parameter.name: parameter.text(values[parameter.name]) for parameter in self.parameters}

    def parse(self, point: Mapping[str, str]) -> dict[str, Any] | None:
        """Returns the texts of an earlier job as Optuna's values; None if the point is outside this space."""
        values = {p.name: p.value(point[p.name]) for p in self.parameters if p.name in point}
        complete = len(values) == len(self.parameters) and None not in values.values()
        return values if complete else None


def parse_ranges(ranges: Mapping[str, Any]) -> Space:
    """Returns the search space of a request's `ParameterRanges`."""
    categories = [
        Parameter(item["Name"], CategoricalDistribution(item["Values"]))
        for item in ranges.get("CategoricalParameterRanges", [])
    ]
    integers = [_integer(item) for item in ranges.get("IntegerParameterRanges", [])]
    floats = [_continuous(item) for item in ranges.get("ContinuousParameterRanges", [])]
    return Space((*categories, *integers, *floats))


def _integer(item: Mapping[str, str]) -> Parameter:
    low, high = int(item["MinValue"]), int(item["MaxValue"])
    return Parameter(item["Name"], IntDistribution(low, high, log=_is_log(item, low, high)))


def _continuous(item: Mapping[str, str]) -> Parameter:
    low, high = float(item["MinValue"]), float(item["MaxValue"])
    if item.get("ScalingType") == "ReverseLogarithmic":
        return Parameter(item["Name"], FloatDistribution(1.0 - high, 1.0 - low, log=True), reverse=True)
    return Parameter(item["Name"], FloatDistribution(low, high, log=_is_log(item, low, high)))


def _is_log(item: Mapping[str, str], low: float, high: float) -> bool:
    scaling = item.get("ScalingType", "Auto")
    return scaling == "Logarithmic" or (scaling == "Auto" and low > 0 and high / low >= AUTO_LOG_RATIO)
