"""Writes the report of a run: report.html, one self-contained page, and report.json with the same findings.

python -m launch.report NAME
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from dogbreed.debugger import files
from dogbreed.debugger.findings import Finding, Status, plain, without_settings
from dogbreed.debugger.read.sources import add_other_runs, read_any
from dogbreed.debugger.recording import Recording
from dogbreed.debugger.report.page import ordered, render
from dogbreed.debugger.report.sections import absent, ending
from dogbreed.debugger.rules.evaluate import evaluate, known_rules, merged_rules
from dogbreed.debugger.rules.tensor_selection import as_list
from dogbreed.system.atomic import atomic_write

HTML, JSON = "report.html", "report.json"


@dataclass(frozen=True)
class Report:
    """A written report."""

    html: Path
    json: Path
    findings: tuple[Finding, ...]

    @property
    def issues(self) -> list[Finding]:
        """Findings that are issues, in the order in which to fix them."""
        return ordered(self.findings)

    def _repr_html_(self) -> str:
        """Returns the issues as a table and the page below it: the report in a notebook."""
        cells = ((finding.rule, finding.outcome.summary, str(finding.outcome.suggestion)) for finding in self.issues)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
        table = f"<table><tr><th>finding</th><th>summary</th><th>try</th></tr>{rows}</table>"
        page = escape(self.html.read_text(encoding="utf-8"), quote=True)
        return f'{table}<iframe srcdoc="{page}" width="100%" height="700" style="border: 0"></iframe>'


def write_report(
    folder: str | Path,
    *,
    rules: Mapping[str, Any] | None = None,
    recording: Recording | None = None,
    output: Path | None = None,
    print_findings: bool = True,
) -> Report:
    """Evaluates the rules on what a run left in `folder`, writes `report.html` and `report.json`, prints the findings.

    Args:
        folder: The run's folder.
        rules: Rules and settings (see `evaluate.configured_rules`); they win over those of the recording, of which
            custom rules are evaluated only if this process has loaded them before.
        recording: What was recorded; None: it is read from `folder`.
        output: Where to write; None: the folder itself.
        print_findings: Whether to print one line per issue, which CloudWatch metric definitions can match, and one
            line with the number of findings of each status.

    Raises:
        UserError: an unknown rule or setting.
    """
    folder = Path(folder)
    recording = recording or read_any(folder)
    recorded, skipped = known_rules(recording.settings.get("rules"))
    recording.problems += [f"rule {name} is not evaluated: {why}" for name, why in skipped.items()]
    config = merged_rules(recorded, rules)
    similar = config.get("SimilarAcrossRuns")
    if isinstance(similar, Mapping):
        add_other_runs(recording, as_list(similar.get("other_trials")))
    findings = evaluate(recording, config)
    if not recording.command:  # a training of other code, which our settings do not configure
        findings = [without_settings(finding) for finding in findings]
    output = output or folder
    output.mkdir(parents=True, exist_ok=True)
    report = Report(output / HTML, output / JSON, tuple(findings))
    files.write_json(report.json, to_json(recording, findings))
    page = render(recording, findings, folder)
    atomic_write(report.html, lambda part: part.write_text(page, encoding="utf-8", errors="replace"))
    if print_findings:
        print("\n".join([*(finding.line() for finding in report.issues), summary_line(findings)]), flush=True)
    return report


def summary_line(findings: Sequence[Finding]) -> str:
    """Returns `findings issues=2 ok=20 ...`: one line with the number of findings of each status."""
    counts = Counter(finding.status for finding in findings)
    return "findings " + " ".join(f"{'issues' if s is Status.ISSUE else s.value}={counts[s]}" for s in Status)


def to_json(recording: Recording, findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns the report as JSON-able data."""
    return {
        "name": recording.name,
        "generated": round(time.time(), 3),
        "summary": dict(Counter(finding.status.value for finding in findings)),
        "next": [
            {
                "rule": f.rule,
                "override": str(f.outcome.suggestion),
                "summary": f.outcome.summary,
                "follows_from": list(f.causes),
            }
            for f in ordered(findings)
        ],
        "findings": [finding.to_json() for finding in findings],
        "ending": ending(recording),
        "absent": dict(absent(recording)),
        "settings": plain(dict(recording.settings)),
        "metrics": plain({name: {"epochs": e, "values": v} for name, (e, v) in recording.metrics.items()}),
        "problems": list(recording.problems),
    }


def read_findings(folder: str | Path) -> list[str]:
    """Returns the names of the rules with an issue in a run's report, in the order to fix them; [] without one.

    For tables of many runs; needs neither torch nor the recorded data.
    """
    path = Path(folder) / JSON
    if not path.is_file():
        return []
    try:
        return [str(item["rule"]) for item in json.loads(path.read_text(encoding="utf-8"))["next"]]
    except (ValueError, KeyError, TypeError):
        return []
