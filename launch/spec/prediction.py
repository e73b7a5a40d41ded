"""Predictions of an endpoint, parsed from its JSON responses. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple


class ClassScore(NamedTuple):
    """A class and its probability."""

    label: str
    class_name: str
    confidence: float | None
    """0 to 1; None if the endpoint answers with class indices alone (`answer=index`)."""


@dataclass(frozen=True)
class Prediction:
    """An endpoint's answer for one image."""

    best: ClassScore
    top: tuple[ClassScore, ...] = ()
    """The most likely classes, `best` first; empty with `answer=index`."""

    def to_json(self) -> dict[str, Any]:
        """Returns the prediction with the keys of the endpoint's own JSON."""
        label, class_name, confidence = self.best
        top = [score._asdict() for score in self.top]
        return {"predicted_label": label, "class_name": class_name, "confidence": confidence, "top_k": top}


def parse_prediction(body: bytes) -> Prediction:
    """Returns the prediction in a response body.

    Raises:
        ValueError: the body is not a prediction.
    """
    try:
        content = json.loads(body)
        if isinstance(content, int):
            return Prediction(ClassScore(str(content), "", None))
        best = ClassScore(str(content["predicted_label"]), str(content["class_name"]), float(content["confidence"]))
        top = (ClassScore(str(s["label"]), str(s["class_name"]), float(s["confidence"])) for s in content["top_k"])
        return Prediction(best, tuple(top))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"the endpoint's response is not a prediction: {body[:80]!r}") from None
