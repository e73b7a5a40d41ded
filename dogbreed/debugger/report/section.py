"""One section of the report, as the template takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

Table = dict[str, Any]
"""`head` and `rows` of cells; `title`; `sortable`; `tall`: scrolls in itself."""


@dataclass(frozen=True)
class Section:
    """One section of the report; what is empty is not shown."""

    id: str
    title: str
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    shares: Sequence[tuple[str, float]] = ()
    """Parts of a whole in percent."""
    matrix: Markup | None = None
    charts: Sequence[tuple[str, Markup]] = ()
    images: Sequence[Mapping[str, str]] = ()
    table: Table | None = None
