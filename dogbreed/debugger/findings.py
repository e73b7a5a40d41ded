"""The outcome of a rule: one of five statuses, its evidence, and a suggestion.

AWS's rules end with "no issues found" even if nothing was evaluated. Here `ok` means that data was checked and found
sound. A rule that could not check reports `not_applicable` (the run has nothing of the kind), `insufficient_data`
(too little was recorded) or `error` (the rule itself failed).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


class Status(str, enum.Enum):
    """Result of a rule; the value is the text in log lines and JSON."""

    ISSUE = "issue"
    OK = "ok"
    NOT_APPLICABLE = "not_applicable"
    INSUFFICIENT_DATA = "insufficient_data"
    ERROR = "error"


@dataclass(frozen=True)
class Suggestion:
    """What to try next: an action in words and, if one setting of the training does it, that setting and its value."""

    action: str
    """Imperative, lower case, without a full stop: `lower the learning rate`."""
    setting: str = ""
    """Key in the training's configuration, such as `lr`; empty if no single setting helps."""
    value: str | int | float | bool | None = None

    @property
    def override(self) -> str:
        """The Hydra override, such as `lr=0.0003`; empty without a setting."""
        if not self.setting:
            return ""
        if self.value is None or isinstance(self.value, bool):
            text = {None: "null", True: "true", False: "false"}[self.value]
        else:
            text = f"{self.value:.3g}" if isinstance(self.value, float) else str(self.value)
        return f"{self.setting}={text}"

    @property
    def advice(self) -> str:
        """The suggestion as the end of a sentence: `try lr=0.0003`, or `try to lower the learning rate`."""
        return f"try {self.override}" if self.setting else f"try to {self.action}"

    def __str__(self) -> str:
        return self.override or self.action


@dataclass(frozen=True)
class Evidence:
    """One observation behind an outcome."""

    text: str
    """What was measured, in words."""
    tensor: str = ""
    """Name of the tensor, layer, class, image or metric; empty if the whole run is meant."""
    step: int | None = None
    """Optimizer step of the observation, or its epoch if the text names epochs."""
    value: float | None = None
    """The measured value."""
    threshold: float | None = None
    """What the value was compared with."""


@dataclass(frozen=True)
class Outcome:
    """Result of a rule function; `evaluate` turns it into a `Finding`."""

    status: Status
    summary: str
    evidence: tuple[Evidence, ...] = ()
    suggestion: Suggestion | None = None
    """What to try next; every issue has one."""
    violations: int = 0
    """Number of observations that broke the rule; `evidence` holds the first ones."""
    datapoints: int = 0
    """Number of observations that were checked."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Figures for tables and plots: plain numbers, strings, lists and dicts only."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters as used, if the rule scaled them to the length of the run."""


@dataclass(frozen=True)
class Finding:
    """An outcome with the rule that produced it and the parameters it used."""

    rule: str
    group: str
    outcome: Outcome
    parameters: Mapping[str, Any]
    priority: int = 50
    """Order in "what to try next", lowest first."""
    causes: tuple[str, ...] = ()
    """Rules with an issue in the same run that explains this one: fix those first."""

    @property
    def status(self) -> Status:
        """The outcome's status."""
        return self.outcome.status

    def line(self) -> str:
        """Returns the log line, for a metric regex such as `finding=VanishingGradient status=issue count=([0-9]+)`."""
        return f"finding={self.rule} status={self.status.value} count={self.outcome.violations}"

    def to_json(self) -> dict[str, Any]:
        """Returns the finding as plain data; capitalized keys are those of SageMaker's own rule reports."""
        outcome, suggestion = self.outcome, self.outcome.suggestion
        return {
            "rule": self.rule,
            "group": self.group,
            "status": self.status.value,
            "priority": self.priority,
            "summary": outcome.summary,
            "override": suggestion.override if suggestion else "",
            "suggestion": plain(vars(suggestion)) if suggestion else None,
            "causes": list(self.causes),
            "evidence": [plain(vars(item)) for item in outcome.evidence],
            "RuleTriggered": int(self.status is Status.ISSUE),
            "Violations": outcome.violations,
            "Datapoints": outcome.datapoints,
            "RuleParameters": plain(dict(self.parameters)),
            "Details": plain(dict(outcome.details)),
        }


def without_settings(finding: Finding) -> Finding:
    """Returns the finding with a suggestion in words alone."""
    suggestion = finding.outcome.suggestion
    words = None if suggestion is None else Suggestion(suggestion.action)
    return replace(finding, outcome=replace(finding.outcome, suggestion=words))


MAX_EVIDENCE = 8
"""Pieces of evidence kept with an outcome; `violations` counts them all."""


def issue(
    summary: str,
    suggestion: Suggestion | str,
    evidence: Sequence[Evidence],
    *,
    datapoints: int,
    details: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Outcome:
    """Returns an issue with one violation per piece of evidence.

    Args:
        summary: One sentence, lower case, without a full stop.
        suggestion: What to try next; plain text is shown as it is.
        evidence: At least one observation, the most important one first.
        datapoints: Number of observations that were checked.
        details: Figures for tables and plots.
        parameters: Parameters that the rule scaled, as used.

    Raises:
        ValueError: There is no evidence or no suggestion.
    """
    if not evidence or not suggestion:
        raise ValueError(f"an issue needs evidence and a suggestion: {summary!r}")
    suggestion = Suggestion(suggestion) if isinstance(suggestion, str) else suggestion
    shown = tuple(evidence[:MAX_EVIDENCE])
    return Outcome(Status.ISSUE, summary, shown, suggestion, len(evidence), datapoints, details or {}, parameters or {})


def ok(
    summary: str,
    *,
    datapoints: int,
    evidence: Sequence[Evidence] = (),
    details: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Outcome:
    """Returns an ok; see `issue` for the arguments.

    Raises:
        ValueError: `datapoints` is 0, which is `insufficient`.
    """
    if datapoints <= 0:
        raise ValueError(f"ok without a single observation: {summary!r}")
    shown = tuple(evidence[:MAX_EVIDENCE])
    return Outcome(Status.OK, summary, shown, None, 0, datapoints, details or {}, parameters or {})


def not_applicable(reason: str) -> Outcome:
    """Returns the outcome for a run that has nothing this rule could check."""
    return Outcome(Status.NOT_APPLICABLE, reason)


def insufficient(reason: str, *, datapoints: int = 0) -> Outcome:
    """Returns the outcome for too little data; `reason` states how much there is and how much is needed."""
    return Outcome(Status.INSUFFICIENT_DATA, reason, datapoints=datapoints)


def failed(reason: str) -> Outcome:
    """Returns the outcome of a rule that raised an exception, for example because of a wrong parameter."""
    return Outcome(Status.ERROR, reason)


def counted(number: int, noun: str) -> str:
    """Returns `1 epoch`, `2 epochs`: a number with its noun, whose plural ends in s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def plain(value: Any) -> Any:
    """Returns `value` as JSON-able data: numpy scalars and arrays become numbers and lists, NaN and infinity text."""
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
