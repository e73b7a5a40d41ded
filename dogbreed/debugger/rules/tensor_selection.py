"""Selects the tensors that a rule checks, and turns flagged values into evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from dogbreed.debugger.findings import Evidence
from dogbreed.debugger.series import Array, Flags, TensorSeries

Names = Sequence[str] | str | None
"""Names as AWS's rules take them: a list, or text with commas."""


def in_a_row(flags: Flags, length: int) -> Flags:
    """Returns (S, N): whether this row and the `length` - 1 rows before it are true in a column."""
    count = np.zeros(flags.shape[1:], dtype=np.int64)
    result = np.zeros_like(flags, dtype=bool)
    for row, now in enumerate(flags):
        count = np.where(now, count + 1, 0)
        result[row] = count >= length
    return result


def observations(series: TensorSeries, flags: Flags, values: Array, text: str, threshold: float) -> list[Evidence]:
    """Returns one piece of evidence per true flag, by step, then in forward order; all arrays are (S, N)."""
    return [
        Evidence(text, series.names[column], int(series.steps[row]), float(values[row, column]), threshold)
        for row, column in np.argwhere(flags)
    ]


def select_tensors(
    tensors: Mapping[str, TensorSeries], collection_names: Names, tensor_regex: Names
) -> dict[str, TensorSeries]:
    """Returns, by collection, the tensors of whole collections and those whose name matches a regex.

    Raises:
        ValueError: A collection does not exist.
    """
    names = as_list(collection_names)
    patterns = [re.compile(pattern) for pattern in as_list(tensor_regex)]
    unknown = sorted(set(names) - {"weights", "biases", "gradients", "updates", "activation_inputs", *tensors})
    if unknown:
        raise ValueError(f"there is no collection {unknown[0]!r}; there are {', '.join(sorted(tensors))}, biases")
    result = {}
    for collection, series in tensors.items():
        columns = [
            i
            for i, name in enumerate(series.names)
            if collection in names
            or (collection == "weights" and "biases" in names and series.tagged(name, "bias"))
            or any(pattern.search(name) for pattern in patterns)
        ]
        if columns:
            result[collection] = series.columns(columns)
    return result


def require_names(rule: str, collection_names: Names, tensor_regex: Names) -> None:
    """Checks that tensors are named.

    Raises:
        ValueError: Neither collection nor regex is given.
    """
    if collection_names is None and tensor_regex is None:
        raise ValueError(f"{rule} needs collection_names (such as [weights]) or tensor_regex")


def as_list(given: Names) -> list[str]:
    """Returns the parts of a list, or of text with commas; [] for None."""
    if given is None:
        return []
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else [str(part) for part in given]
