"""Configures the rules and evaluates them on what a run recorded."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dogbreed.debugger.defaults import DEFAULTS
from dogbreed.debugger.findings import Finding, Outcome, Status, failed, insufficient, not_applicable
from dogbreed.debugger.recording import Missing, Recording
from dogbreed.debugger.rules import (  # noqa: F401 - importing a module registers its rules
    activations,
    classes,
    confidence,
    gpu,
    images,
    learning_rate,
    losses,
    overfitting,
    stalls,
    steps,
    system,
    tensors,
    updates,
)
from dogbreed.debugger.rules.base import RULES, Rule, RuleFunction, describe_rule
from dogbreed.errors import UserError, did_you_mean

_LOADED: dict[str, RuleFunction] = {}
"""Custom rules that were loaded in this process, by dotted path."""


def all_rules() -> dict[str, Rule]:
    """Returns the built-in rules by name, in the order of their priority."""
    return dict(sorted(RULES.items(), key=lambda item: item[1].priority))


def merged_rules(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns two configurations of `configured_rules` as one; the settings in `second` win."""
    merged = dict(first or {})
    for name, given in (second or {}).items():
        before = merged.get(name)
        before = {"_target_": before} if isinstance(before, str) else before
        if isinstance(before, Mapping) and (given is True or isinstance(given, Mapping)):
            merged[name] = {**before, **({} if given is True else given)}
        else:
            merged[name] = given
    return merged


def known_rules(recorded: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns (the rules of a recording that may be evaluated, name to reason for the others).

    A recording may come from someone else, and importing a module runs its code: custom rules are evaluated only if
    this process has loaded them before, from its own configuration.
    """
    rules: dict[str, Any] = {}
    skipped = {}
    for name, given in (recorded or {}).items():
        target = given if isinstance(given, str) else given.get("_target_") if isinstance(given, Mapping) else None
        if target and target not in _LOADED:
            skipped[name] = f"recordings cannot load {target}; enable it with debugger.rules.{name}={target}"
        else:
            rules[name] = given
    return rules, skipped


def configured_rules(config: Mapping[str, Any] | None) -> list[tuple[Rule, dict[str, Any]]]:
    """Returns the rules to evaluate with their settings, built-in ones first.

    Args:
        config: Rule name (AWS's name works too) to its settings, to null or false (off), or to true. A custom rule
            maps to its dotted path (`package.module.function`) or to `{_target_: path, setting: value}`. Built-in
            rules that are not named run with their defaults.

    Raises:
        UserError: An unknown rule or setting, or a path without a function.
    """
    known = all_rules()
    by_aws_name = {item.aws_name: name for name, item in known.items() if item.aws_name}
    config = {by_aws_name.get(name, name): given for name, given in (config or {}).items()}
    chosen: list[tuple[Rule, dict[str, Any]]] = [
        (item, dict(DEFAULTS.get(name, {}))) for name, item in known.items() if name not in config
    ]
    for name, given in config.items():
        if given is None or given is False:
            continue
        target, settings = _parse(name, given, known)
        item = describe_rule(name, load_function(target)) if target else known[name]
        unknown = sorted(set(settings) - set(item.defaults))
        if unknown:
            raise UserError(f"rule {name} has no setting {unknown[0]!r}{did_you_mean(unknown[0], item.defaults)}")
        chosen.append((item, settings if target else {**DEFAULTS.get(name, {}), **settings}))
    order = {name: number for number, name in enumerate(known)}
    return sorted(chosen, key=lambda pair: order.get(pair[0].name, len(order)))


def _parse(name: str, given: Any, known: Mapping[str, Rule]) -> tuple[str, dict[str, Any]]:
    """Returns (dotted path of a custom rule or "", settings)."""
    if isinstance(given, str):
        return given, {}
    settings = dict(given) if isinstance(given, Mapping) else {}
    target = str(settings.pop("_target_", ""))
    if not target and name not in known:
        raise UserError(f"there is no rule {name!r}{did_you_mean(name, known)}; a custom rule needs its dotted path")
    return target, settings


def load_function(path: str) -> RuleFunction:
    """Returns the function at a dotted path.

    Raises:
        UserError: There is no such module or function.
    """
    module_name, _, function_name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"no rule function at {path!r} ({error}); give it as package.module.function") from error
    if not callable(function):
        raise UserError(f"{path!r} is not a function; a rule is a function that returns an Outcome")
    _LOADED[path] = function
    return function


def run_rule(item: Rule, recording: Recording, settings: Mapping[str, Any]) -> Finding:
    """Returns the finding of one rule; an exception inside it becomes status `error`."""
    outcome = _outcome(item, recording, settings)
    parameters = {**item.defaults, **settings, **outcome.parameters}
    return Finding(item.name, item.group, outcome, parameters, item.priority)


def _outcome(item: Rule, recording: Recording, settings: Mapping[str, Any]) -> Outcome:
    inputs = [recording.get(name) for name in (*item.required, *item.optional)]
    for value in inputs[: len(item.required)]:
        if isinstance(value, Missing):
            return (not_applicable if value.not_applicable else insufficient)(value.reason)
    try:
        outcome = item.function(*(None if isinstance(value, Missing) else value for value in inputs), **settings)
    except Exception as error:  # noqa: BLE001 - a failing rule, perhaps a custom one, must not end a run
        return failed(f"{type(error).__name__}: {error}")
    if isinstance(outcome, Outcome):
        return outcome
    return failed(f"the rule returned {type(outcome).__name__}, not an Outcome")


def evaluate(
    recording: Recording, config: Mapping[str, Any] | None = None, only: Iterable[str] | None = None
) -> list[Finding]:
    """Returns the findings of the configured rules, in the order of their priority.

    Args:
        recording: What the run recorded.
        config: Settings by rule, see `configured_rules`.
        only: Names of the rules to evaluate; None: all.

    Raises:
        UserError: `config` or `only` names a rule or a setting that does not exist.
    """
    chosen = configured_rules(config)
    if only is not None:
        wanted, names = set(only), {item.name for item, _ in chosen}
        unknown = sorted(wanted - names)
        if unknown:
            raise UserError(f"there is no rule {unknown[0]!r} to evaluate{did_you_mean(unknown[0], names)}")
        chosen = [(item, settings) for item, settings in chosen if item.name in wanted]
    findings = [run_rule(item, recording, settings) for item, settings in chosen]
    issues = {finding.rule for finding in findings if finding.status is Status.ISSUE}
    causes = {item.name: tuple(cause for cause in item.caused_by if cause in issues) for item, _ in chosen}
    return [replace(finding, causes=causes[finding.rule]) for finding in findings]
