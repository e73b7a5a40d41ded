"""Writes the report of a run: its issues, where the time went, and what to try next.

    python -m launch.report NAME                 a training or the trials of a sweep in outputs/NAME
    python -m launch.report FOLDER               folder of any run, of smdebug or of an old SageMaker job
    python -m launch.report s3://BUCKET/JOB      the same on S3; it is copied to outputs/JOB first
    python -m launch.report NAME debugger.rules.Overfit.patience=5       with another setting of a rule

Writes report.html (one file, works offline) and report.json to the folder of the run.
"""

from __future__ import annotations

from pathlib import Path

from dogbreed.cli.command import run_cli
from dogbreed.debugger.report.report import Report, write_report
from launch.cli import SUCCESS, split_argv
from launch.runs.recorded import find_runs, rule_settings


def main(argv: list[str]) -> int:
    """Writes the reports and prints their issues and paths; returns 0."""
    args = split_argv(argv)
    name = args.one_name("python -m launch.report NAME, FOLDER or s3://BUCKET/JOB")
    rules = rule_settings(args.overrides)
    for folder in find_runs(name):
        _print_issues(write_report(folder, rules=rules, print_findings=False), folder)
    return SUCCESS


def _print_issues(report: Report, folder: Path) -> None:
    issues = report.issues
    print(f"{folder}: {len(issues)} issue{'' if len(issues) == 1 else 's'}")
    for finding in issues:
        advice = f"; {finding.outcome.suggestion.advice}" if finding.outcome.suggestion else ""
        causes = f" (follows from {', '.join(finding.causes)})" if finding.causes else ""
        print(f"  {finding.rule}: {finding.outcome.summary}{causes}{advice}")
    print(f"  report: {report.html}")


if __name__ == "__main__":
    run_cli(main, __doc__)
