"""The HTML page of a report."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed.debugger.findings import Finding, Status
from dogbreed.debugger.recording import Recording
from dogbreed.debugger.report.charts import number
from dogbreed.debugger.report.sections import absent, all_sections, duration, ending
from dogbreed.debugger.rules.evaluate import all_rules

if TYPE_CHECKING:
    from jinja2 import Template


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the issues: root causes by priority, then those that follow from them."""
    issues = [finding for finding in findings if finding.status is Status.ISSUE]
    return sorted(issues, key=lambda finding: (len(finding.causes) > 0, finding.priority))


def render(recording: Recording, findings: Sequence[Finding], folder: Path) -> str:
    """Returns the HTML page."""
    known = all_rules()
    return page_template().render(
        recording=recording,
        style=_text("report.css"),
        script=_text("report.js"),
        issues=ordered(findings),
        findings=sorted(findings, key=lambda finding: list(Status).index(finding.status)),
        counts=Counter(finding.status.value for finding in findings),
        describe=lambda name: known[name].description if name in known else "A custom rule.",
        facts=facts(recording),
        ending=ending(recording),
        sections=all_sections(recording, folder),
        absent=absent(recording),
        generated=time.strftime("%Y-%m-%d %H:%M", time.localtime()),
    )


@functools.cache
def page_template() -> Template:
    """Returns the compiled template of the page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = lambda value: f"{value:.4g}" if isinstance(value, (int, float)) else value
    return environment.from_string(_text("report.html"))


def _text(name: str) -> str:
    return (package_files("dogbreed.debugger.report") / "templates" / name).read_text(encoding="utf-8")


def facts(recording: Recording) -> list[tuple[str, str]]:
    """Returns the results and settings at the head of the page: (name, text)."""
    settings = recording.settings
    test, val = (recording.metrics.get(f"{stage}/accuracy", ((), ()))[1] for stage in ("test", "val"))
    seconds = sum(recording.phases_s.values())
    trained, total = settings.get("num_trained"), settings.get("num_parameters")
    candidates = [
        ("Test accuracy", f"{test[-1]:.1%}" if test else ""),
        ("Best validation accuracy", f"{max(val):.1%}" if val else ""),
        ("Time", duration(seconds) if seconds else ""),
        ("Model", settings.get("model") or settings.get("network")),
        ("Weights", settings.get("weights")),
        ("Trained", f"{number(trained)} of {number(total)} parameters" if trained is not None and total else ""),
        ("Data", _data(settings)),
        ("Optimizer", settings.get("optimizer")),
        ("Learning rate", f"{settings['lr']:g}" if isinstance(settings.get("lr"), (int, float)) else ""),
        ("Batch size", settings.get("batch_size")),
        ("Epochs", settings.get("epochs")),
        ("Seed", settings.get("seed")),
        ("Device", settings.get("device")),
    ]
    return [(name, str(value)) for name, value in candidates if value not in (None, "")]


def _data(settings: Mapping[str, Any]) -> str:
    counts = settings.get("class_counts") or {}
    size = f"{sum(counts.values())} training images in {len(counts)} classes" if counts else ""
    return ", ".join(text for text in (str(settings.get("data_url") or ""), size) if text)
