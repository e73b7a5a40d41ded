"""Which tensors a rule looks at, and what it says of those it minds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.debugger.findings import Evidence
from dogbreed.debugger.series import Array, Flags, TensorSeries


def runs_of(flags: Flags, length: int) -> Flags:
    """Returns (S, N) where `length` or more rows in a row are true up to and with this one, in each column."""
    count = np.zeros(flags.shape[1:], dtype=np.int64)
    result = np.zeros_like(flags, dtype=bool)
    for row, now in enumerate(flags):
        count = np.where(now, count + 1, 0)
        result[row] = count >= length
    return result


def observations(series: TensorSeries, flags: Flags, values: Array, text: str, threshold: float) -> list[Evidence]:
    """Returns one piece of evidence for each true flag, by step, then in forward order."""
    return [
        Evidence(text, series.names[column], int(series.steps[row]), float(values[row, column]), threshold)
        for row, column in np.argwhere(flags)
    ]


def chosen_tensors(
    tensors: Mapping[str, TensorSeries], collection_names: Sequence[str] | str | None, tensor_regex: Any
) -> dict[str, tuple[TensorSeries, NDArray[np.intp]]]:
    """Returns collection to (series, columns): the union of whole collections and of names that match a regex.

    Both may be a list or text with commas, as AWS's rules take them.

    Raises:
        ValueError: a collection that does not exist.
    """
    names = listed(collection_names)
    patterns = [re.compile(pattern) for pattern in listed(tensor_regex)]
    unknown = sorted(set(names) - {"weights", "biases", "gradients", "updates", "activation_inputs", *tensors})
    if unknown:
        raise ValueError(f"no collection is named {unknown[0]!r}; there are {', '.join(sorted(tensors))}, biases")
    result = {}
    for collection, series in tensors.items():
        by_name = [any(pattern.search(name) for pattern in patterns) for name in series.names]
        whole = [
            collection in names or (collection == "weights" and "biases" in names and series.tagged(name, "bias"))
            for name in series.names
        ]
        columns = np.flatnonzero(np.logical_or(by_name, whole))
        if len(columns):
            result[collection] = (series, columns)
    return result


def listed(given: Any) -> list[str]:
    """Returns the parts of a list, or of text with commas; [] for None."""
    if given is None:
        return []
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else [str(part) for part in given]
