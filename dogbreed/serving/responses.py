"""Encodes predictions as JSON, CSV or NumPy, as the client's Accept header asks."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dogbreed.serving.model_folder import ModelCard
from dogbreed.serving.request import JSON_TYPE, RequestError
from dogbreed.serving.settings import Settings

CSV_TYPE, NUMPY_TYPE = "text/csv", "application/x-npy"

CONTENT_TYPES = (JSON_TYPE, CSV_TYPE, NUMPY_TYPE)
"""Supported content types, most preferred first."""

_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")


class Prediction(NamedTuple):
    """The network's output for the images of one request."""

    probabilities: NDArray[np.float32]
    """(B, num_classes)."""
    is_batch: bool
    """Whether the client sent a list of images."""
    card: ModelCard


def negotiate_content_type(accept: str) -> str:
    """Returns the supported content type that an Accept header prefers (RFC 9110, 12.5.1); the first one on a tie.

    Raises:
        RequestError: 406 if the header allows no supported type.
    """
    ranges: dict[str, tuple[float, int]] = {}
    for position, part in enumerate(accept.lower().split(",")):
        media_range, *parameters = (text.strip() for text in part.split(";"))
        qualities = [match[1] for match in map(_QUALITY.fullmatch, parameters) if match]
        ranges[media_range] = (float(qualities[0]) if qualities else 1.0, -position)

    def quality(kind: str) -> tuple[float, int]:
        most_specific_first = (kind, kind.partition("/")[0] + "/*", "*/*")
        return next((ranges[name] for name in most_specific_first if name in ranges), (0.0, 0))

    best = max(CONTENT_TYPES, key=quality)
    if not quality(best)[0]:
        raise RequestError(406, f"accept {accept!r}; possible: {', '.join(CONTENT_TYPES)}")
    return best


def encode_response(prediction: Prediction, accept: str | None, settings: Settings) -> tuple[bytes, str]:
    """Returns body and content type of the response.

    Accept headers `*/*` and None select `settings.default_accept`.

    Raises:
        RequestError: 406 if `accept` allows no supported content type.
    """
    kind = negotiate_content_type(accept if accept and accept != "*/*" else settings.default_accept)
    probabilities, card = prediction.probabilities, prediction.card
    best = probabilities.argmax(axis=1)
    if kind == NUMPY_TYPE:
        buffer = io.BytesIO()
        np.save(buffer, best if settings.as_index else probabilities, allow_pickle=False)
        return buffer.getvalue(), kind
    if kind == CSV_TYPE:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [index] if settings.as_index else _class_score(card, index, row[index]).values()
            for index, row in zip(best.tolist(), probabilities, strict=True)
        )
        return text.getvalue().encode(), kind
    answers: list[Any] = best.tolist()
    if not settings.as_index:
        answers = [_top_classes(card, row, settings.top_k) for row in probabilities]
    return json.dumps({"predictions": answers} if prediction.is_batch else answers[0]).encode(), kind


def _class_score(card: ModelCard, index: int, probability: float) -> dict[str, Any]:
    return {"label": card.labels[index], "class_name": card.names[index], "confidence": round(float(probability), 6)}


def _top_classes(card: ModelCard, row: NDArray[np.float32], top_k: int) -> dict[str, Any]:
    order = np.argsort(-row, kind="stable")[:top_k].tolist()
    top = [_class_score(card, index, row[index]) for index in order]
    return {"predicted_label": top[0]["label"], **{key: top[0][key] for key in ("class_name", "confidence")},
            "top_k": top}  # fmt: skip
