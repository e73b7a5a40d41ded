from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dogbreed.errors import UserError
from launch import report
from launch.runs.result_files import found_issues
from launch.runs.results import Sweep, Trial
from launch.views.tables import sweep_table


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run `dogs` whose loss does not fall, in outputs/."""
    monkeypatch.chdir(tmp_path)
    debug = tmp_path / "outputs" / "dogs" / "debug"
    debug.mkdir(parents=True)
    row = {"kind": "losses", "steps": list(range(40)), "epochs": [0] * 40, "values": [2.0] * 40}
    (debug / "records.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path / "outputs"


def test_report_of_a_name_or_a_folder(outputs: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("dogs", str(outputs / "dogs")):
        assert report.main([name]) == 0
        out = capsys.readouterr().out
        assert "LossNotDecreasing: the training loss does not fall; try to lower the learning rate" in out
        assert (outputs / "dogs" / "report.html").is_file()


def test_report_takes_settings_of_rules(outputs: Path, capsys: pytest.CaptureFixture[str]):
    report.main(["dogs", "debugger.rules.LossNotDecreasing=null"])
    assert "0 issues" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one name"),
        (["dgos"], "did you mean dogs"),
        (["dogs", "lr=3"], "debugger.rules.NAME.SETTING"),
        (["dogs", "debugger.rules.Overfitt.patience=3"], "did you mean Overfit"),
    ],
)
def test_report_with_wrong_argument_names_the_fix(outputs: Path, words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        report.main(words)


def test_report_of_empty_folder_is_an_error(outputs: Path):
    (outputs / "empty").mkdir()
    with pytest.raises(UserError, match="nothing recorded"):
        report.main(["empty"])


def test_sweep_table_shows_findings_of_trials():
    said = [("", "Overfit", "ok"), ("not a line: ", "AllZero", "issue"), ("", "DeadRelu", "issue")]
    log = [f"{before}finding={rule} status={status} count=3" for before, rule, status in said]
    trial = Trial("dogs-001-ab", "Completed", {"lr": "30"}, 0.2, 9.0, findings=found_issues(log))
    assert trial.findings == ("DeadRelu",)
    written = Console(width=120, file=io.StringIO(), markup=False)
    trials = (trial, replace(trial, findings=()))
    written.print(sweep_table(Sweep("dogs", "Completed", "val/accuracy", True, 2, trials, 9.0)))
    lines = written.file.getvalue().splitlines()
    assert "findings" in "".join(lines[:4])
    assert sum("DeadRelu" in line for line in lines) == 1
