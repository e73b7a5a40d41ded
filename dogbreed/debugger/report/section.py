"""One section of the report, as the template takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

Table = dict[str, Any]
"""`head` and `rows` of cells; `title`; `sortable`; `tall`: has a scroll bar."""


@dataclass(frozen=True)
class Shares:
    """Parts of a total, drawn as one bar."""

    title: str
    parts: Sequence[tuple[str, str, float]]
    """(name, its value as text, percent of the total)."""


@dataclass(frozen=True)
class Matrix:
    """A table of counts with coloured cells: right on the diagonal, wrong elsewhere."""

    names: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[tuple[int, float]]]
    """For each name a (count, share of the class in percent) per column."""


@dataclass(frozen=True)
class Section:
    """One section of the report; empty parts are not shown."""

    id: str
    title: str
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    shares: Sequence[Shares] = ()
    matrix: Matrix | None = None
    charts: Sequence[tuple[str, Markup]] = ()
    images: Sequence[Mapping[str, str]] = ()
    table: Table | None = None
