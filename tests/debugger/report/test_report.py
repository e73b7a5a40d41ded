from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dogbreed.debugger.findings import Status
from dogbreed.debugger.report.report import read_findings, summary_line, write_report
from dogbreed.debugger.rules.evaluate import all_rules, evaluate
from dogbreed.errors import UserError


def report_of(folder: Path, **settings):
    return write_report(folder, print_findings=False, **settings)


def statuses(folder: Path) -> dict[str, Status]:
    return {finding.rule: finding.status for finding in report_of(folder).findings}


def test_report_is_one_file_without_requests(run_copy: Path):
    report = report_of(run_copy)
    page = report.html.read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"https?://", page)
    assert not re.search(r"url\((?!#)", page) and "@import" not in page
    for title in ("Findings", "What to try next", "Learning curves", "Confusion", "Worst mistakes", "Classes"):
        assert f"<h2>{title}</h2>" in page
    for title in ("Calibration", "Layers", "Where the time goes", "The machine", "All rules"):
        assert f"<h2>{title}</h2>" in page
    assert len(page) < 3_000_000


def test_report_json_has_the_same_findings(run_copy: Path):
    assert "data.balanced" not in report_of(run_copy).html.read_text()  # other code has no such setting
    (run_copy / "overrides.yaml").write_text("[]")
    report = report_of(run_copy)
    written = json.loads(report.json.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [item["rule"] for item in written["findings"]] == [finding.rule for finding in report.findings]
    assert written["next"][0]["rule"] == "ClassImbalance"
    assert written["next"][0]["override"] == "data.balanced=true"
    assert {"RuleTriggered", "Violations", "Datapoints", "RuleParameters", "Details"} <= set(written["findings"][0])
    assert read_findings(run_copy)[0] == "ClassImbalance"
    assert read_findings(run_copy / "absent") == []


def test_report_in_a_notebook_has_issues_and_page(run_copy: Path):
    report = report_of(run_copy)
    shown = report._repr_html_()
    assert all(f"<td>{finding.rule}</td>" in shown for finding in report.issues)
    page = html.unescape(shown.partition('srcdoc="')[2].partition('" width')[0])
    assert page == report.html.read_text(encoding="utf-8")


def test_print_findings_has_a_line_for_each_issue_only(run_copy: Path, capsys: pytest.CaptureFixture[str]):
    report = write_report(run_copy)
    out = capsys.readouterr().out
    lines = re.findall(r"^finding=(\w+) status=issue count=[0-9]+$", out, re.MULTILINE)
    assert lines == [finding.rule for finding in report.issues]
    assert "ClassImbalance" in lines
    assert out.count("finding=") == len(lines)
    assert re.search(r"^findings issues=[0-9]+ ok=[0-9]+ not_applicable=", out, re.MULTILINE)


def test_summary_line_counts_every_status(run_copy: Path):
    line = summary_line(report_of(run_copy).findings)
    assert sum(map(int, re.findall(r"=(\d+)", line))) == len(all_rules())


def test_report_escapes_text_of_users(run_copy: Path):
    settings = json.loads((run_copy / "debug" / "run.json").read_text())
    settings["model"] = "<script>alert(1)</script>"
    (run_copy / "debug" / "run.json").write_text(json.dumps(settings))
    assert "<script>alert" not in report_of(run_copy).html.read_text()


def test_report_imports_no_torch(run_copy: Path):
    code = (
        "import sys; from dogbreed.debugger.report.report import write_report; "
        f"write_report({str(run_copy)!r}); sys.exit(any(m in sys.modules for m in ('torch', 'smdebug')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_rule_settings_win_over_recorded_ones(run_copy: Path):
    report = report_of(run_copy, rules={"ClassImbalance": {"threshold_imbalance": 100}})
    assert "ClassImbalance" not in [finding.rule for finding in report.issues]
    with pytest.raises(UserError, match="did you mean Overfit"):
        report_of(run_copy, rules={"Overfitt": {}})


def test_report_of_a_finished_run_lacks_nothing(run_copy: Path):
    written = json.loads(report_of(run_copy).json.read_text())
    assert (written["ending"], written["absent"]) == ("", {})


def test_report_without_image_hashes_names_the_setting(run_copy: Path):
    (run_copy / "debug" / "images.json").unlink()
    report = report_of(run_copy)
    absent = json.loads(report.json.read_text())["absent"]
    assert "debugger.images.enabled=true" in absent.pop("Copies and unreadable images")
    assert not absent
    assert "Not in this report" in report.html.read_text()
    assert statuses(run_copy)["TrainValOverlap"] is Status.INSUFFICIENT_DATA


def test_report_without_a_test_shows_validation(run_copy: Path):
    (run_copy / "debug" / "predictions-test.npz").unlink()
    report = report_of(run_copy)
    assert "no test" in json.loads(report.json.read_text())["absent"]["Worst mistakes"]
    page = report.html.read_text()
    assert "120 val images" in page and "<h2>Worst mistakes</h2>" not in page


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": 1}, "stopped after 1 of 2 epochs"),
        ({"name": "batch"}, "no end was recorded"),
        ({"name": "exception", "why": "out of memory"}, "it failed at step 32: out of memory"),
        ({"name": "stopped", "by": "Overfit", "why": "w"}, "Overfit ended it at step 32: w"),
    ],
)
def test_report_gives_the_reason_of_an_early_end(run_copy: Path, change: dict, reason: str):
    path = run_copy / "debug" / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    [end] = [row for row in rows if row.get("name") == "fit_end"]
    end |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert reason in report_of(run_copy).html.read_text()
    resumed = [{**end, "name": name, "epoch": 2} for name in ("fit_start", "fit_end")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + resumed))
    assert "did not finish" not in report_of(run_copy).html.read_text()


def test_report_lists_what_could_not_be_read(run_copy: Path):
    path = run_copy / "debug" / "records.jsonl"
    path.write_text(path.read_text()[:-40])
    assert "Could not be read" in report_of(run_copy).html.read_text()


def test_report_of_an_old_job_with_a_profile_only(run_copy: Path):
    shutil.rmtree(run_copy / "debug")
    assert statuses(run_copy)["OverallSystemUsage"] is Status.OK


def configure(run: Path, rules: dict) -> None:
    path = run / "debug" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rules": rules}))


def compared(run: Path, rules: dict | None = None) -> tuple[Status, str]:
    found = {finding.rule: finding for finding in report_of(run, rules=rules).findings}
    return found["SimilarAcrossRuns"].status, found["SimilarAcrossRuns"].outcome.summary


def test_recorded_other_runs_are_compared(run_copy: Path, finished_run: Path, tmp_path: Path):
    again = shutil.copytree(finished_run, tmp_path / "again")
    configure(run_copy, {"SimilarAcrossRuns": {"other_trials": f"{finished_run}, {again}"}})  # as text, as AWS sends it
    assert compared(run_copy)[0] is Status.OK
    assert compared(run_copy, {"SimilarAcrossRuns": {"other_trials": [str(again)]}})[0] is Status.OK
    assert compared(run_copy, {"SimilarAcrossRuns": {"rtol": 1e-3}})[0] is Status.OK


def test_missing_other_run_is_reported(run_copy: Path, finished_run: Path, tmp_path: Path):
    nothing = str(tmp_path / "nothing")
    assert compared(run_copy, {"SimilarAcrossRuns": True})[0] is Status.NOT_APPLICABLE
    status, summary = compared(run_copy, {"SimilarAcrossRuns": {"other_trials": [nothing]}})
    assert (status, f"nothing recorded in {nothing}" in summary) == (Status.INSUFFICIENT_DATA, True)
    assert compared(run_copy, {"SimilarAcrossRuns": {"other_trials": [nothing, str(finished_run)]}})[0] is Status.OK
    assert f"nothing recorded in {nothing}" in (run_copy / "report.html").read_text()


@pytest.mark.parametrize("recorded", ["evil.run", {"_target_": "evil.run"}])
def test_recorded_custom_rule_is_not_imported(
    recorded: object, run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "from dogbreed.debugger import ok\ndef run(losses): return ok('fine', datapoints=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    configure(run_copy, {"Evil": recorded, "ClassImbalance": False})
    found = statuses(run_copy)
    assert "Evil" not in found and "ClassImbalance" not in found
    assert not (tmp_path / "ran").exists()
    assert "debugger.rules.Evil=evil.run" in (run_copy / "report.html").read_text()


def custom(losses):
    from dogbreed.debugger import ok

    return ok("fine", datapoints=len(losses))


def test_recorded_custom_rule_of_this_process_is_evaluated(run_copy: Path):
    path = f"{__name__}.custom"
    evaluate_with = {"Custom": path}
    configure(run_copy, evaluate_with)
    from dogbreed.debugger.recording import Recording

    evaluate(Recording(), evaluate_with)  # as the training does before it starts
    assert statuses(run_copy)["Custom"] is Status.OK
