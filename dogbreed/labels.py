"""Labels and display names from class folders: `069.French_bulldog` has label `069` and name `French_bulldog`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class ClassName(NamedTuple):
    """The two parts of a class folder's name."""

    label: str
    """Short code: the digits before the dot, leading zeros included; the whole folder name if it has no number."""
    name: str
    """Display name: the text after the dot; the whole folder name if it has no number."""


def parse_class(folder: str) -> ClassName:
    """Returns the label and display name of a class folder."""
    numbered = re.fullmatch(r"([0-9]+)\.(.+)", folder, flags=re.DOTALL)
    return ClassName(numbered[1], numbered[2]) if numbered else ClassName(folder, folder)


def parse_classes(folders: Sequence[str]) -> list[ClassName]:
    """Returns the labels and names of all classes: the whole folder names if two would have the same label.

    `1.5L` and `1.6L` would otherwise both have label `1`.
    """
    parsed = [parse_class(folder) for folder in folders]
    are_unique = len({label for label, _ in parsed}) == len(parsed)
    return parsed if are_unique else [ClassName(folder, folder) for folder in folders]
