"""One self-contained HTML file about a run, and its JSON twin.

python -m launch.report NAME
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed.debugger import files
from dogbreed.debugger.findings import Finding, Status, plain
from dogbreed.debugger.read.sources import add_other_runs, read_any
from dogbreed.debugger.recording import Recording
from dogbreed.debugger.report.charts import number
from dogbreed.debugger.report.sections import absent, all_sections, ending
from dogbreed.debugger.rules.evaluate import all_rules, evaluate, known_rules, merged_rules
from dogbreed.debugger.rules.tensor_selection import as_list

if TYPE_CHECKING:
    from jinja2 import Template

HTML, JSON = "report.html", "report.json"


@dataclass(frozen=True)
class Report:
    """A written report."""

    html: Path
    json: Path
    findings: tuple[Finding, ...]

    @property
    def issues(self) -> list[Finding]:
        """Findings that are issues: what to mend first comes first."""
        return ordered(self.findings)

    def _repr_html_(self) -> str:
        """Returns the issues as a table and the page below it: what a notebook shows of a report."""
        cells = ((finding.rule, finding.outcome.summary, str(finding.outcome.suggestion)) for finding in self.issues)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
        table = f"<table><tr><th>finding</th><th>what was seen</th><th>try</th></tr>{rows}</table>"
        page = escape(self.html.read_text(encoding="utf-8"), quote=True)
        return f'{table}<iframe srcdoc="{page}" width="100%" height="700" style="border: 0"></iframe>'


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the issues: root causes by priority, then what follows from them."""
    issues = [finding for finding in findings if finding.status is Status.ISSUE]
    return sorted(issues, key=lambda finding: (len(finding.causes) > 0, finding.priority))


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
        rules: Rules and settings (see `registry.configured_rules`), over those the run was started with.
        recording: What was recorded, where it is not in our own files (an smdebug folder).
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
    output = output or folder
    output.mkdir(parents=True, exist_ok=True)
    report = Report(output / HTML, output / JSON, tuple(findings))
    files.write_json(report.json, twin(recording, findings))
    part = report.html.with_name(HTML + ".part")
    part.write_text(render(recording, findings, folder), encoding="utf-8", errors="replace")
    part.replace(report.html)
    if print_findings:
        print("\n".join([*(finding.line() for finding in report.issues), summary_line(findings)]), flush=True)
    return report


def summary_line(findings: Sequence[Finding]) -> str:
    """Returns `findings issues=2 ok=20 ...`: one line with the number of findings of each status."""
    counts = Counter(finding.status for finding in findings)
    return "findings " + " ".join(f"{'issues' if s is Status.ISSUE else s.value}={counts[s]}" for s in Status)


def twin(recording: Recording, findings: Sequence[Finding]) -> dict[str, Any]:
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
    """Returns the names of the rules with an issue in a run's report, what to mend first comes first; [] without one.

    For tables of many runs; needs neither torch nor the recorded data.
    """
    path = Path(folder) / JSON
    if not path.is_file():
        return []
    try:
        return [str(item["rule"]) for item in json.loads(path.read_text(encoding="utf-8"))["next"]]
    except (ValueError, KeyError, TypeError):
        return []


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
        describe=lambda name: known[name].description if name in known else "A rule of your own.",
        facts=facts(recording),
        ending=ending(recording),
        sections=all_sections(recording, folder),
        absent=absent(recording),
        generated=time.strftime("%Y-%m-%d %H:%M", time.localtime()),
    )


@functools.cache
def page_template() -> Template:
    """Returns the page without its content; compiling it takes as long as filling it in."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = lambda value: f"{value:.4g}" if isinstance(value, (int, float)) else value
    return environment.from_string(_text("report.html"))


def _text(name: str) -> str:
    return (package_files("dogbreed.debugger.report") / "templates" / name).read_text(encoding="utf-8")


def facts(recording: Recording) -> list[tuple[str, str]]:
    """Returns what a reader wants to know of the run at a glance: (name, text)."""
    settings = recording.settings
    accuracy = {stage: recording.metrics.get(f"{stage}/accuracy") for stage in ("test", "val")}
    best = accuracy["val"]
    times = recording.inputs.get("step_times")
    seconds = sum(times.phases_s.values()) if times is not None else 0.0
    candidates = [
        ("Test accuracy", f"{accuracy['test'][1][-1]:.1%}" if accuracy["test"] else ""),
        ("Best validation accuracy", f"{max(best[1]):.1%}" if best else ""),
        ("Model", str(settings.get("model") or settings.get("network") or "")),
        ("Learning rate", f"{settings['lr']:g}" if isinstance(settings.get("lr"), (int, float)) else ""),
        ("Batch size", str(settings.get("batch_size") or "")),
        ("Epochs", str(settings.get("epochs") or "")),
        ("Classes", str(settings.get("num_classes") or "")),
        ("Trained", _parameters(settings)),
        ("Device", str(settings.get("device") or "")),
        ("Time", f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds else ""),
    ]
    return [(name, text) for name, text in candidates if text]


def _parameters(settings: Mapping[str, Any]) -> str:
    trained, total = settings.get("num_trained"), settings.get("num_parameters")
    return f"{number(trained)} of {number(total)} parameters" if trained is not None and total else ""
