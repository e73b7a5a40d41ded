"""Class names from folder names: `069.French_bulldog` has label `069` and name `French_bulldog`."""

from __future__ import annotations

import re
from typing import NamedTuple


class ClassName(NamedTuple):
    """What a class folder is called."""

    label: str
    """Short code: the number before the dot, with its zeros; the whole folder name where there is no number."""
    name: str
    """Name to show: what follows the dot; the whole folder name where there is no number."""


def parse_class(folder: str) -> ClassName:
    """Returns the label and name that a class folder's name holds."""
    numbered = re.fullmatch(r"([0-9]+)\.(.+)", folder, flags=re.DOTALL)
    return ClassName(numbered[1], numbered[2]) if numbered else ClassName(folder, folder)
