"""Renders the reference of all rules, from their signatures and docstrings, as Markdown."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from dogbreed.debugger.defaults import DEFAULTS
from dogbreed.debugger.rules.base import Rule
from dogbreed.debugger.rules.evaluate import all_rules

_SECTIONS = ("Args", "Statuses", "Raises", "Source")


def rules_page() -> str:
    """Returns the page: a table of all built-in rules, sorted by name, and one section about each."""
    rules = sorted(all_rules().values(), key=lambda rule: rule.name)
    rows = [f"| [{rule.name}](#{rule.name.lower()}) | {rule.aws_name} | {rule.description} |" for rule in rules]
    table = ["| Rule | AWS rule | What it detects |", "| --- | --- | --- |", *rows]
    return "\n".join(["# Rules", "", *table, "", *(_section(rule) for rule in rules)])


def _section(rule: Rule) -> str:
    """Returns the section about one rule: description, inputs, settings, statuses and source."""
    parts = _split(inspect.getdoc(rule.function) or "")
    documented = _fields(parts["Args"])
    lines = [f"## {rule.name}", "", parts[""], ""]
    if rule.aws_name:
        lines += [f"AWS's name: `{rule.aws_name}`.", ""]
    lines += [
        f"- Input `{name}`{' (optional)' if name in rule.optional else ''}: {documented[name]}"
        for name in (*rule.required, *rule.optional)
    ]
    if rule.defaults:
        lines += ["", "| Setting | Default | In reports | Meaning |", "| --- | --- | --- | --- |"]
        ours: Mapping[str, Any] = DEFAULTS.get(rule.name, {})
        for name, value in rule.defaults.items():
            changed = f"`{_text(ours[name])}`" if name in ours else ""
            meaning = documented[name].replace("|", "\\|")
            lines.append(f"| `{name}` | `{_text(value)}` | {changed} | {meaning} |")
    lines += ["", *(f"- `{status}`: {text}" for status, text in _fields(parts["Statuses"]).items())]
    if parts["Raises"]:
        lines += ["", "An error if: " + " ".join(_fields(parts["Raises"]).values())]
    return "\n".join([*lines, "", f"Source: {parts['Source']}", ""])


def _split(doc: str) -> dict[str, str]:
    """Returns the sections of a Google-style docstring by name; "" is the text before the first one."""
    parts: dict[str, list[str]] = {name: [] for name in ("", *_SECTIONS)}
    section = ""
    for line in doc.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name in _SECTIONS:
            section = name
            parts[section] += [rest.strip()] if rest else []
        else:
            parts[section].append(line)
    return {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in parts.items()}


def _fields(section: str) -> dict[str, str]:
    """Returns name to text of the `name: text` entries of a section, continuation lines joined."""
    fields: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line.startswith(" "):
            fields[name] += " " + line.strip()
        else:
            name, _, text = line.partition(": ")
            fields[name] = text
    fields.pop("", None)
    return fields


def _text(value: Any) -> str:
    """Returns a setting as YAML would write it."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(str, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
