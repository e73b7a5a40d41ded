"""What a rule says: one of five statuses, its evidence, and what to try next.

AWS's rules end as "no issues found" also when nothing was ever evaluated. Here a rule that could not look says so:
`not_applicable` (there is nothing of the kind to look at), `insufficient_data` (too little was recorded) and `error`
(the rule itself failed) are statuses of their own, and `ok` means that data was looked at and found sound.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class Status(str, enum.Enum):
    """The five things a rule can say; the value is what log lines and JSON hold."""

    ISSUE = "issue"
    OK = "ok"
    NOT_APPLICABLE = "not_applicable"
    INSUFFICIENT_DATA = "insufficient_data"
    ERROR = "error"


@dataclass(frozen=True)
class Evidence:
    """One observation behind an outcome."""

    text: str
    """What was seen, in words a person reads."""
    tensor: str = ""
    """Name of the tensor, layer, class, image or metric; empty where the whole run is meant."""
    step: int | None = None
    """Optimizer step (or epoch, where the text says so) of the observation."""
    value: float | None = None
    """The measured value."""
    threshold: float | None = None
    """What it was compared with."""


@dataclass(frozen=True)
class Outcome:
    """What a rule function returns; `registry.evaluate` makes a `Finding` of it."""

    status: Status
    summary: str
    evidence: tuple[Evidence, ...] = ()
    override: str = ""
    """One Hydra override to try, such as `lr=0.0003`; every issue has one."""
    violations: int = 0
    """How many observations broke the rule (all of them are counted, the first ones are in `evidence`)."""
    datapoints: int = 0
    """How many observations were looked at."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Figures for tables and plots: plain numbers, strings, lists and dicts only."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters as they were really used, where the rule had to scale them to what was recorded."""


@dataclass(frozen=True)
class Finding:
    """An outcome together with the rule that made it and the parameters it used."""

    rule: str
    group: str
    outcome: Outcome
    parameters: Mapping[str, Any]
    priority: int = 50
    """Order in "what to try next": a low number comes first."""
    causes: tuple[str, ...] = ()
    """Rules whose issues in the same run bring this one about: what to mend first."""

    @property
    def status(self) -> Status:
        """The outcome's status."""
        return self.outcome.status

    def line(self) -> str:
        """Returns the log line, readable by a CloudWatch metric definition such as
        `finding=VanishingGradient status=issue count=([0-9]+)`.
        """
        return f"finding={self.rule} status={self.status.value} count={self.outcome.violations}"

    def as_dict(self) -> dict[str, Any]:
        """Returns the finding as JSON-able data, with the key names of SageMaker's own rule reports beside ours."""
        outcome = self.outcome
        return {
            "rule": self.rule,
            "group": self.group,
            "status": self.status.value,
            "priority": self.priority,
            "summary": outcome.summary,
            "override": outcome.override,
            "causes": list(self.causes),
            "evidence": [plain(vars(item)) for item in outcome.evidence],
            "RuleTriggered": int(self.status is Status.ISSUE),
            "Violations": outcome.violations,
            "Datapoints": outcome.datapoints,
            "RuleParameters": plain(dict(self.parameters)),
            "Details": plain(dict(outcome.details)),
        }


SHOWN = 8
"""Pieces of evidence kept with an outcome; `violations` counts them all."""


def issue(
    summary: str,
    override: str,
    evidence: Sequence[Evidence],
    *,
    datapoints: int,
    violations: int | None = None,
    details: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Outcome:
    """Returns an issue; `violations` defaults to the number of pieces of evidence given, of which the first are kept.

    Raises:
        ValueError: an issue without evidence or without an override to try.
    """
    if not evidence or not override:
        raise ValueError(f"an issue needs evidence and one override to try: {summary!r}")
    count = len(evidence) if violations is None else violations
    shown = tuple(evidence[:SHOWN])
    return Outcome(Status.ISSUE, summary, shown, override, count, datapoints, details or {}, parameters or {})


def ok(
    summary: str,
    *,
    datapoints: int,
    evidence: Sequence[Evidence] = (),
    details: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Outcome:
    """Returns an ok; `datapoints` says how much was looked at, and must not be 0.

    Raises:
        ValueError: nothing was looked at, which is `insufficient`.
    """
    if datapoints <= 0:
        raise ValueError(f"ok without anything looked at: {summary!r}")
    shown = tuple(evidence[:SHOWN])
    return Outcome(Status.OK, summary, shown, "", 0, datapoints, details or {}, parameters or {})


def not_applicable(reason: str) -> Outcome:
    """Returns the outcome for a run that has nothing of the kind this rule looks at."""
    return Outcome(Status.NOT_APPLICABLE, reason)


def insufficient(reason: str, *, datapoints: int = 0, parameters: Mapping[str, Any] | None = None) -> Outcome:
    """Returns the outcome for too little recorded data; `reason` says how much there is and how much is needed."""
    return Outcome(Status.INSUFFICIENT_DATA, reason, datapoints=datapoints, parameters=parameters or {})


def failed(reason: str) -> Outcome:
    """Returns the outcome of a rule that could not run: wrong parameters or an exception of its own."""
    return Outcome(Status.ERROR, reason)


def plain(value: Any) -> Any:
    """Returns `value` as JSON-able data: numpy scalars and arrays become numbers and lists, nan and inf become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
