"""Renders the declared settings: as the help text of a command, and as the configuration page of the documentation."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from dogbreed.cli.groups import choices, default_choices, describe_choice
from dogbreed.cli.schema import Schema
from dogbreed.system.settings import REQUIRED, Setting, declared, show_value

_WIDTH = 100
"""Columns of a help text."""

_INTRODUCTION = """\
Type `KEY=VALUE` to change a setting and `GROUP=CHOICE` to choose from a config group. `python -m COMMAND --help` prints
the same tables for one command. A default of `${KEY}` is the value of another key."""

_PASSED_ON = {
    "optimizer": "Arguments of the optimizer class of PyTorch.",
    "trainer": "Arguments of `pytorch_lightning.Trainer`; add others with `+trainer.NAME=VALUE`.",
    "experiment": "Overrides that reproduce a published training or sweep.",
    "search": "The ranges that `KEY=range` searches; declare one with `+search.KEY=RANGE`.",
}
"""Groups whose keys are not settings of this project."""


def help_text(doc: str, schema: Schema, config_name: str | None = None) -> str:
    """Returns the help of a command: its description, each key that it takes, and the choices of its config groups.

    Args:
        doc: Description of the command.
        schema: The settings that the command takes; empty if it takes none.
        config_name: File in `conf/` that the command composes; None limits the groups to those of `schema`.
    """
    paragraphs = [doc.strip()]
    for part, kinds in schema.items():
        for kind in kinds:
            rows = [_help_row(key, item) for key, item in _rows(kind, part)]
            paragraphs.append("\n".join([_summary(kind), *rows]))
    groups = default_choices(config_name) if config_name else {part: None for part in schema if choices(part)}
    if groups:
        lines = [f"  {group:<11} {', '.join(choices(group))}" for group in sorted(groups)]
        paragraphs.append("\n".join(["Config groups (GROUP=CHOICE):", *lines]))
    return "\n\n".join(paragraphs)


def configuration_page(commands: Mapping[str, tuple[str, Schema]]) -> str:
    """Returns the configuration page in Markdown: a table of settings and the choices of each config group.

    Args:
        commands: Command (`launch.tune`) to the file in `conf/` that it composes and the settings that it takes.
    """
    sections = ["# Configuration", _INTRODUCTION]
    kinds = {(part, kind): None for _, schema in commands.values() for part, kinds in schema.items() for kind in kinds}
    defaults = {group: name for config, _ in commands.values() for group, name in default_choices(config).items()}
    parts = list(dict.fromkeys([part for part, _ in kinds] + list(defaults)))
    for part in parts:
        own = [kind for key, kind in kinds if key == part]
        if part:
            takers = _takers(commands, part)
            sections += [
                f"## Group `{part}`",
                f"Config group of {takers}." if part in defaults else f"Settings of {takers}.",
            ]
        for kind in own:
            if not part:
                takers = _takers(commands, part, kind)
                sections += [f"## {_title(kind)}"]
                sections += [f"{_summary(kind)} Settings of {takers}."]
            else:
                sections += [_summary(kind)]
            sections.append(_table(kind, part))
        if not own and part in _PASSED_ON:
            sections.append(_PASSED_ON[part])
        if part in defaults:
            sections.append(_choice_list(part, defaults[part]))
    return "\n\n".join(sections) + "\n"


def _takers(commands: Mapping[str, tuple[str, Schema]], part: str, kind: type | None = None) -> str:
    """Returns the commands that take a config group, or the settings of one dataclass."""
    names = [
        f"`{name}`"
        for name, (config, schema) in commands.items()
        if (kind in schema.get(part, ()) if kind else part in schema or part in default_choices(config))
    ]
    return ", ".join(names)


def _rows(kind: type, part: str) -> Iterator[tuple[str, Setting]]:
    """Yields full key and declaration of each setting; one of nested settings comes before them."""
    for item in declared(kind):
        key = f"{part}.{item.name}" if part else item.name
        yield key, item
        if dataclasses.is_dataclass(item.kind):
            yield from _rows(item.kind, key)


def _help_row(key: str, item: Setting) -> str:
    nested = dataclasses.is_dataclass(item.kind)
    head = f"  {key}:" if nested else f"  {key}={_default(item)}  ({item.allowed})"
    return f"{head}\n{textwrap.fill(_meaning(item), _WIDTH, initial_indent=' ' * 6, subsequent_indent=' ' * 6)}"


def _table(kind: type, part: str) -> str:
    lines = ["| Key | Default | Allowed | What it does |", "|---|---|---|---|"]
    for key, item in _rows(kind, part):
        nested = dataclasses.is_dataclass(item.kind)
        default, allowed = ("", "") if nested else (_code(_default(item)), item.allowed)
        lines.append(f"| {' | '.join(map(_cell, (_code(key), default, allowed, _meaning(item))))} |")
    return "\n".join(lines)


def _choice_list(group: str, default: str | None) -> str:
    lines = []
    for name in choices(group):
        text = describe_choice(group, name)
        lines.append(f"- `{group}={name}`{' (default)' if name == default else ''}{f': {text}' if text else ''}")
    return "\n".join(lines)


def _meaning(item: Setting) -> str:
    return item.doc if item.search is None else f"{item.doc} `{item.name}=range` searches `{item.search}`."


def _default(item: Setting) -> str:
    if item.default == REQUIRED:
        return "required"
    value = item.default
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(show_value, value))}]"
    return show_value(value)


def _title(kind: type) -> str:
    """Returns the heading of a dataclass of top-level settings: `Training job` for `TrainingJobSettings`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__.removesuffix("Settings")).capitalize()


def _summary(kind: type) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())


def _code(text: str) -> str:
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
