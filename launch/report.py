"""Makes the report of a run: what went wrong, where the time went, what to try next.

    python -m launch.report NAME                 a training or the trials of a sweep in outputs/NAME
    python -m launch.report FOLDER               any run's folder, an smdebug folder, an old SageMaker job's folder
    python -m launch.report s3://BUCKET/JOB      the same on S3; it is copied to outputs/JOB first
    python -m launch.report NAME debugger.rules.Overfit.patience=5       with another setting of a rule

It writes report.html (one file, needs no network) and report.json into the run's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from dogbreed.cli.command import run_cli
from dogbreed.debugger.read.download import download
from dogbreed.debugger.read.sources import run_folders
from dogbreed.debugger.report.report import Report, write_report
from dogbreed.errors import UserError, did_you_mean

OUTPUTS = Path("outputs")
_PREFIX = "debugger.rules."


def main(words: list[str]) -> int:
    """Writes the reports and prints where they are; returns 0."""
    names = [word for word in words if "=" not in word]
    if len(names) != 1:
        raise UserError("give one run: python -m launch.report NAME, FOLDER or s3://BUCKET/JOB")
    rules = rule_settings([word for word in words if "=" in word])
    for folder in find(names[0]):
        show(write_report(folder, rules=rules, print_findings=False), folder)
    return 0


def rule_settings(words: list[str]) -> dict[str, Any] | None:
    """Returns the rules' settings of `debugger.rules.NAME.SETTING=VALUE` words; None without any.

    Raises:
        UserError: another key, or a value that is no YAML.
    """
    if not words:
        return None
    for word in words:
        if not word.lstrip("+").startswith(_PREFIX):
            raise UserError(f"{word.partition('=')[0]} has no meaning here; allowed: {_PREFIX}NAME.SETTING=VALUE")
    try:
        given = OmegaConf.from_dotlist([word.lstrip("+").removeprefix(_PREFIX) for word in words])
    except YAMLError as error:
        raise UserError(f"cannot read {' '.join(words)}: {' '.join(str(error).split())}") from None
    config = OmegaConf.to_container(given)
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else None


def find(name: str) -> list[Path]:
    """Returns the folders of the runs that `name` means.

    Raises:
        UserError: there is no such run, or nothing was recorded in it.
    """
    if name.startswith("s3://"):
        folder = download(name, OUTPUTS)
    else:
        folder = Path(name) if Path(name).is_dir() else OUTPUTS / name
    if not folder.is_dir():
        there = [path.name for path in OUTPUTS.iterdir() if path.is_dir()] if OUTPUTS.is_dir() else []
        hint = did_you_mean(name, there) if there else "; outputs/ is empty"
        raise UserError(f"there is no run {name!r}{hint}")
    return run_folders(folder) or [folder]


def show(report: Report, folder: Path) -> None:
    """Prints the issues of a run, what to try, and where the report is."""
    issues = report.issues
    print(f"{folder}: {len(issues)} issue{'' if len(issues) == 1 else 's'}")
    for finding in issues:
        follows = f" (follows from {', '.join(finding.causes)})" if finding.causes else ""
        print(f"  {finding.rule}: {finding.outcome.summary}{follows}; try {finding.outcome.suggestion}")
    print(f"  report: {report.html}")


if __name__ == "__main__":
    run_cli(main, __doc__)
