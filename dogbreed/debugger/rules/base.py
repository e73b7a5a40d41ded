"""Definition of a rule, and the registry of built-in rules.

A rule is a function that returns an `Outcome`. Its positional parameters name the inputs it reads (see
`recording.INPUTS`); those with a default are optional. Its keyword-only parameters are its settings:

    from dogbreed.debugger import Evidence, Suggestion, issue, ok

    def loss_above(losses, *, limit=3.0):
        worst = float(losses.values.max())
        if worst <= limit:
            return ok("the loss stays low", datapoints=len(losses))
        suggestion = Suggestion("lower the learning rate", "lr", 0.001)
        evidence = [Evidence("largest loss", value=worst, threshold=limit)]
        return issue("the loss is too high", suggestion, evidence, datapoints=len(losses))

Enable it with `+debugger.rules.LossAbove=my_package.my_module.loss_above`, or with settings:
`+debugger.rules.LossAbove='{_target_: my_package.my_module.loss_above, limit: 2}'`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dogbreed.debugger.findings import Outcome

RuleFunction = Callable[..., Outcome]

Settings = Mapping[str, Any]
"""The input `settings`: settings of the run and properties of the machine."""


@dataclass(frozen=True)
class Rule:
    """A rule function, and the inputs and settings of its signature."""

    name: str
    function: RuleFunction
    group: str
    priority: int
    required: tuple[str, ...]
    """Inputs without which the rule is not evaluated."""
    optional: tuple[str, ...]
    """Inputs that are None if they were not recorded."""
    defaults: Mapping[str, Any]
    """Setting to its default."""
    caused_by: tuple[str, ...] = ()
    """Rules whose issues explain an issue of this one."""
    aws_name: str = ""
    """Name of the AWS rule it re-implements; empty if there is none."""

    @property
    def description(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0]


RULES: dict[str, Rule] = {}
"""Built-in rules by name; filled when `rules.evaluate` imports their modules."""


def rule(
    name: str, *, group: str, priority: int = 50, caused_by: tuple[str, ...] = (), aws_name: str = ""
) -> Callable[[RuleFunction], RuleFunction]:
    """Returns a decorator that registers a function as built-in rule `name`.

    Args:
        name: Name in reports and in the configuration.
        group: `tensor`, `training`, `data` or `profiler`.
        priority: Order among the issues of a report, lowest first.
        caused_by: Rules whose issues explain an issue of this one.
        aws_name: Name of the AWS rule it re-implements.

    Raises:
        ValueError: The name is taken.
    """

    def register(function: RuleFunction) -> RuleFunction:
        if name in RULES:
            raise ValueError(f"there are two rules named {name}")
        declared = describe_rule(name, function, group, priority)
        RULES[name] = replace(declared, caused_by=caused_by, aws_name=aws_name)
        return function

    return register


def describe_rule(name: str, function: RuleFunction, group: str = "custom", priority: int = 40) -> Rule:
    """Returns the rule that the signature of `function` declares."""
    required, optional, defaults = [], [], {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            defaults[parameter.name] = None if parameter.default is parameter.empty else parameter.default
        elif parameter.default is parameter.empty:
            required.append(parameter.name)
        else:
            optional.append(parameter.name)
    return Rule(name, function, group, priority, tuple(required), tuple(optional), defaults)
