"""Rules by name, and their evaluation.

A rule is a function. Its positional parameters name what it looks at (see `recording.INPUTS`), those with a default
are optional; its keyword-only parameters are its settings; it returns an `Outcome`:

    from dogbreed.debugger import issue, ok, Evidence

    def loss_above(losses, *, limit=3.0):
        worst = float(losses.values.max())
        if worst > limit:
            return issue("The loss went too high", "lr=0.001", [Evidence("loss", value=worst, threshold=limit)],
                         datapoints=len(losses))
        return ok("The loss stayed low", datapoints=len(losses))

One line puts it to work: `+debugger.rules.LossAbove=my_package.my_module.loss_above`, or with settings
`+debugger.rules.LossAbove='{_target_: my_package.my_module.loss_above, limit: 2}'`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dogbreed.debugger.defaults import OURS
from dogbreed.debugger.findings import Finding, Outcome, Status, failed, insufficient, not_applicable
from dogbreed.debugger.recording import Missing, Recording
from dogbreed.errors import UserError, did_you_mean

RuleFunction = Callable[..., Outcome]


@dataclass(frozen=True)
class Rule:
    """A rule function with what its signature says."""

    name: str
    function: RuleFunction
    group: str
    priority: int
    needs: tuple[str, ...]
    """Inputs without which it cannot look."""
    likes: tuple[str, ...]
    """Inputs it uses where they exist."""
    defaults: Mapping[str, Any]
    follows: tuple[str, ...] = ()
    """Rules whose issues bring this one's about."""

    @property
    def description(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0]


_ALIASES = {"StalledTrainingRule": "StalledTraining"}
"""A name of AWS's to ours, where they differ."""

RULES: dict[str, Rule] = {}
"""Every rule of ours, by the name that reports and configuration use."""


def rule(
    name: str, *, group: str, priority: int = 50, follows: tuple[str, ...] = ()
) -> Callable[[RuleFunction], RuleFunction]:
    """Registers the decorated function as rule `name`; see the module's description for what it must look like."""

    def register(function: RuleFunction) -> RuleFunction:
        if name in RULES:
            raise ValueError(f"there are two rules named {name}")
        RULES[name] = replace(describe_rule(name, function, group, priority), follows=follows)
        return function

    return register


def describe_rule(name: str, function: RuleFunction, group: str = "own", priority: int = 40) -> Rule:
    """Returns what the signature of `function` says about the rule."""
    positional = []
    optional = []
    defaults = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            defaults[parameter.name] = None if parameter.default is parameter.empty else parameter.default
        elif parameter.default is parameter.empty:
            positional.append(parameter.name)
        else:
            optional.append(parameter.name)
    return Rule(name, function, group, priority, tuple(positional), tuple(optional), defaults)


def all_rules() -> dict[str, Rule]:
    """Returns our rules by name, in report order."""
    importlib.import_module("dogbreed.debugger.rules")
    return RULES


def merged_rules(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns both of what `configured_rules` takes as one; of a rule in both, settings of `second` count."""
    merged = dict(first or {})
    for name, given in (second or {}).items():
        before = merged.get(name)
        before = {"_target_": before} if isinstance(before, str) else before
        if isinstance(before, Mapping) and (given is True or isinstance(given, Mapping)):
            merged[name] = {**before, **({} if given is True else given)}
        else:
            merged[name] = given
    return merged


def configured_rules(config: Mapping[str, Any] | None) -> list[tuple[Rule, dict[str, Any]]]:
    """Returns the rules to run with their settings.

    `config` maps a rule's name to its settings, to null or false (do not run it), to true, or, for a rule of the
    user's own, to its dotted path (`pkg.module.function`) or `{_target_: path, setting: value}`. Rules of ours that
    `config` does not name run with their defaults.

    Raises:
        UserError: an unknown rule or setting, or a path that does not lead to a function.
    """
    config = {_ALIASES.get(name, name): given for name, given in (config or {}).items()}
    known = all_rules()
    chosen: list[tuple[Rule, dict[str, Any]]] = [
        (item, dict(OURS.get(name, {}))) for name, item in known.items() if name not in config
    ]
    for name, given in config.items():
        if given is None or given is False:
            continue
        target, settings = _target(name, given, known)
        item = describe_rule(name, load_function(target)) if target else known[name]
        unknown = sorted(set(settings) - set(item.defaults))
        if unknown:
            raise UserError(f"rule {name} has no setting {unknown[0]!r}{did_you_mean(unknown[0], item.defaults)}")
        chosen.append((item, settings if target else {**OURS.get(name, {}), **settings}))
    order = {name: number for number, name in enumerate(known)}
    return sorted(chosen, key=lambda pair: order.get(pair[0].name, len(order)))


def _target(name: str, given: Any, known: Mapping[str, Rule]) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    settings = dict(given) if isinstance(given, Mapping) else {}
    target = str(settings.pop("_target_", ""))
    if not target and name not in known:
        raise UserError(f"there is no rule {name!r}{did_you_mean(name, known)}; a rule of your own needs its path")
    return target, settings


def load_function(path: str) -> RuleFunction:
    """Returns the function at a dotted path.

    Raises:
        UserError: no such module or function.
    """
    module_name, _, function_name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"no rule function at {path!r} ({error}); give it as package.module.function") from error
    if not callable(function):
        raise UserError(f"{path!r} is no function; a rule is a function that returns an Outcome")
    return function


def run_rule(item: Rule, recording: Recording, settings: Mapping[str, Any]) -> Finding:
    """Returns the finding of one rule; an exception inside it becomes status `error` with its text."""
    parameters = {**item.defaults, **settings}

    def finding(outcome: Outcome) -> Finding:
        return Finding(item.name, item.group, outcome, {**parameters, **outcome.parameters}, item.priority)

    inputs = []
    for name in (*item.needs, *item.likes):
        value = recording.get(name)
        if isinstance(value, Missing):
            if name in item.needs:
                return finding((not_applicable if value.not_applicable else insufficient)(value.reason))
            value = None
        inputs.append(value)
    try:
        outcome = item.function(*inputs, **settings)
    except Exception as error:  # noqa: BLE001 - rules are also users' code: any failure must show as `error`, not end a run
        return finding(failed(f"{type(error).__name__}: {error}"))
    if not isinstance(outcome, Outcome):
        return finding(failed(f"the rule returned {type(outcome).__name__}, not an Outcome"))
    return finding(outcome)


def evaluate(
    recording: Recording, config: Mapping[str, Any] | None = None, only: Iterable[str] | None = None
) -> list[Finding]:
    """Returns the findings of all configured rules (or of those named in `only`), in report order.

    Raises:
        UserError: the configuration names a rule or a setting that does not exist.
    """
    wanted = None if only is None else set(only)
    chosen = configured_rules(config)
    if wanted is not None:
        names = {item.name for item, _ in chosen}
        unknown = sorted(wanted - names)
        if unknown:
            raise UserError(f"there is no rule {unknown[0]!r} to evaluate{did_you_mean(unknown[0], names)}")
    findings = [
        run_rule(item, recording, settings) for item, settings in chosen if wanted is None or item.name in wanted
    ]
    issues = {finding.rule for finding in findings if finding.status is Status.ISSUE}
    follows = {item.name: tuple(cause for cause in item.follows if cause in issues) for item, _ in chosen}
    return [replace(finding, causes=follows[finding.rule]) for finding in findings]
