"""Probabilities to the body of an answer: JSON, CSV or NumPy, whichever the client accepts."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dogbreed.serving.bundle import ModelCard
from dogbreed.serving.images import JSON_TYPE, RequestError
from dogbreed.serving.settings import Settings

CSV_TYPE, NUMPY_TYPE = "text/csv", "application/x-npy"

ACCEPTED = (JSON_TYPE, CSV_TYPE, NUMPY_TYPE)
"""In the order in which they are chosen where a client takes anything."""

_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")


class Prediction(NamedTuple):
    """What the network says of a request's images."""

    probabilities: NDArray[np.float32]
    """(B, num_classes)."""
    several: bool
    """Whether a list was asked, even of one."""
    card: ModelCard


def choose_type(accept: str) -> str:
    """Returns the content type of the answer for an Accept header: of equal q, what it names first.

    Raises:
        RequestError: 406, nothing that it names can be made.
    """
    wanted: dict[str, tuple[float, int]] = {}
    for position, part in enumerate(accept.lower().split(",")):
        kind, *parameters = (word.strip() for word in part.split(";"))
        given = [match[1] for match in map(_QUALITY.fullmatch, parameters) if match]
        wanted[kind] = (float(given[0]) if given else 1.0, -position)

    def quality(kind: str) -> tuple[float, int]:
        names = (kind, kind.partition("/")[0] + "/*", "*/*")  # the most exact one counts
        return next((wanted[name] for name in names if name in wanted), (0.0, 0))

    best = max(ACCEPTED, key=quality)
    if not quality(best)[0]:
        raise RequestError(406, f"accept {accept!r}; possible: {', '.join(ACCEPTED)}")
    return best


def write_answer(prediction: Prediction, accept: str | None, settings: Settings) -> tuple[bytes, str]:
    """Returns body and content type of the answer.

    Raises:
        RequestError: 406, nothing that `accept` names can be made.
    """
    kind = choose_type(accept if accept and accept != "*/*" else settings.default_accept)
    probabilities = prediction.probabilities
    best = probabilities.argmax(axis=1)
    if kind == NUMPY_TYPE:
        buffer = io.BytesIO()
        np.save(buffer, best if settings.as_index else probabilities, allow_pickle=False)
        return buffer.getvalue(), kind
    if kind == CSV_TYPE:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [index] if settings.as_index else list(_named(prediction.card, index, row[index]).values())
            for index, row in zip(best.tolist(), probabilities, strict=True)
        )
        return text.getvalue().encode(), kind
    answers = (
        best.tolist()
        if settings.as_index
        else [_described(prediction.card, row, settings.top_k) for row in probabilities]
    )
    return json.dumps({"predictions": answers} if prediction.several else answers[0]).encode(), kind


def _named(card: ModelCard, index: int, probability: float) -> dict[str, Any]:
    return {"label": card.labels[index], "class_name": card.names[index], "confidence": round(float(probability), 6)}


def _described(card: ModelCard, row: NDArray[np.float32], top_k: int) -> dict[str, Any]:
    order = np.argsort(-row, kind="stable")[:top_k].tolist()
    top = [_named(card, index, row[index]) for index in order]
    return {"predicted_label": top[0]["label"], **{key: top[0][key] for key in ("class_name", "confidence")},
            "top_k": top}  # fmt: skip
