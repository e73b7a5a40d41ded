from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tarfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytorch_lightning as pl

from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.download import download
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.read.sources import read_any, run_folders
from dogbreed.debugger.report.charts import Axes, Line, bar_chart, heat_map, line_chart, thinned, ticks
from dogbreed.debugger.report.mlflow import send_findings
from dogbreed.debugger.report.report import read_findings, summary_line, write_report
from dogbreed.debugger.rules.evaluate import all_rules, evaluate
from dogbreed.errors import UserError
from tests.debugger.tiny import TinyData, TinyModel, train

if TYPE_CHECKING:
    from conftest import S3Server


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished training with one issue: 50 times as many images of one class as of another."""
    folder = tmp_path_factory.mktemp("outputs") / "imbalanced"
    pl.seed_everything(0, verbose=False)
    train(folder, TinyModel(), TinyData((500, 10), val=(60, 60), noise=0.5), 2)
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("config", "name"), [("name: dogs-1\nlr: 0.1\n", "dogs-1"), ("name: null\n", "copy"), ("{half", "copy")]
)
def test_a_run_is_called_what_its_config_calls_it(copy: Path, config: str, name: str):
    (copy / "config.yaml").write_text(config)
    assert read_run(copy).name == name


def test_report_is_one_file_that_asks_for_nothing_else(run: Path):
    report = write_report(run, say=False)
    html = report.html.read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert not re.search(r"https?://", html)
    assert "url(" not in html and "@import" not in html
    for title in ("Findings", "What to try next", "Learning curves", "Confusion", "Worst mistakes", "Classes"):
        assert f"<h2>{title}</h2>" in html
    for title in ("Calibration", "Layers", "Where the time goes", "The machine", "All rules"):
        assert f"<h2>{title}</h2>" in html
    assert len(html) < 3_000_000


def test_twin_holds_the_same_findings(run: Path):
    report = write_report(run, say=False)
    twin = json.loads(report.json.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [item["rule"] for item in twin["findings"]] == [finding.rule for finding in report.findings]
    assert twin["next"][0]["rule"] == "ClassImbalance"
    assert twin["next"][0]["override"] == "data.balanced=true"
    assert {"RuleTriggered", "Violations", "Datapoints", "RuleParameters", "Details"} <= set(twin["findings"][0])
    assert read_findings(run)[0] == "ClassImbalance"
    assert read_findings(run / "absent") == []


def test_a_notebook_shows_issues_and_page(run: Path):
    report = write_report(run, say=False)
    shown = report._repr_html_()
    assert all(f"<td>{finding.rule}</td>" in shown for finding in report.issues)
    page = html.unescape(shown.partition('srcdoc="')[2].partition('" width')[0])
    assert page == report.html.read_text(encoding="utf-8")


def test_a_line_for_each_finding_that_cloudwatch_can_read(run: Path, capsys: pytest.CaptureFixture[str]):
    write_report(run)
    out = capsys.readouterr().out
    assert len(re.findall(r"^finding=(\w+) status=(\w+) count=[0-9]+$", out, re.MULTILINE)) == len(all_rules())
    assert re.search(r"^finding=ClassImbalance status=issue count=([0-9]+)$", out, re.MULTILINE)
    assert re.search(r"^findings issues=[0-9]+ ok=[0-9]+ not_applicable=", out, re.MULTILINE)


def test_text_of_users_is_escaped(copy: Path):
    settings = json.loads((copy / "debug" / "run.json").read_text())
    settings["model"] = "<script>alert(1)</script>"
    (copy / "debug" / "run.json").write_text(json.dumps(settings))
    assert "<script>alert" not in write_report(copy, say=False).html.read_text()


def test_reading_and_reporting_import_no_torch(copy: Path):
    code = (
        "import sys; from dogbreed.debugger.report.report import write_report; "
        f"write_report({str(copy)!r}, say=False); sys.exit(any(m in sys.modules for m in ('torch', 'smdebug')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_rules_are_the_runs_unless_given(copy: Path):
    report = write_report(copy, rules={"ClassImbalance": {"threshold_imbalance": 100}}, say=False)
    assert "ClassImbalance" not in [finding.rule for finding in report.issues]
    with pytest.raises(UserError, match="did you mean Overfit"):
        write_report(copy, rules={"Overfitt": {}}, say=False)


class TestWhatIsMissing:
    def test_of_a_whole_run_nothing(self, run: Path):
        twin = json.loads(write_report(run, say=False).json.read_text())
        assert (twin["ending"], twin["absent"]) == ("", {})

    def test_of_a_trial_of_a_sweep(self, copy: Path):
        (copy / "debug" / "images.json").unlink()
        report = write_report(copy, say=False)
        absent = json.loads(report.json.read_text())["absent"]
        assert "debugger.images.enabled=true" in absent.pop("Copies and unreadable images")
        assert not absent
        assert "Not in this report" in report.html.read_text()
        assert statuses(copy)["TrainValOverlap"] is Status.INSUFFICIENT_DATA

    def test_of_a_training_without_a_test(self, copy: Path):
        (copy / "debug" / "predictions-test.npz").unlink()
        report = write_report(copy, say=False)
        assert "no test" in json.loads(report.json.read_text())["absent"]["Worst mistakes"]
        html = report.html.read_text()
        assert "Of 120 val images" in html and "<h2>Worst mistakes</h2>" not in html

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"epoch": 1}, "stopped after 1 of 2 epochs"),
            ({"name": "batch"}, "no end was recorded"),
            ({"name": "exception", "why": "out of memory"}, "it failed at step 32: out of memory"),
            ({"name": "stopped", "by": "Overfit", "why": "w"}, "Overfit ended it at step 32: w"),
        ],
    )
    def test_of_a_training_that_was_stopped(self, copy: Path, change: dict, said: str):
        path = copy / "debug" / "records.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        [end] = [row for row in rows if row.get("name") == "fit_end"]
        end |= change
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert said in write_report(copy, say=False).html.read_text()
        resumed = [{**end, "name": name, "epoch": 2} for name in ("fit_start", "fit_end")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows + resumed))
        assert "did not finish" not in write_report(copy, say=False).html.read_text()


def statuses(folder: Path) -> dict[str, Status]:
    return {finding.rule: finding.status for finding in write_report(folder, say=False).findings}


class TestBadInput:
    def test_half_written_records(self, copy: Path):
        path = copy / "debug" / "records.jsonl"
        path.write_text(path.read_text()[:-40])
        assert any("records.jsonl: 1 of" in problem for problem in read_run(copy).problems)
        assert Status.ERROR not in statuses(copy).values()
        assert "Could not be read" in (copy / "report.html").read_text()

    @pytest.mark.parametrize("name", ["activations.npz", "predictions-test.npz", "run.json", "images.json"])
    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"{}", b"\xff\xfe[1, 2"])
    def test_damaged_files(self, copy: Path, name: str, content: bytes):
        (copy / "debug" / name).write_bytes(content)
        recording = read_run(copy)
        assert content == b"{}" or any(name in problem for problem in recording.problems)
        assert Status.ERROR not in statuses(copy).values()

    def test_rows_of_another_version(self, copy: Path):
        path = copy / "debug" / "records.jsonl"
        path.write_text(path.read_text() + '{"kind": "losses", "steps": [1, 2]}\n{"kind": "tensors"}\n[1]\n')
        assert Status.ERROR not in statuses(copy).values()
        assert read_run(copy).problems

    def test_nan_in_the_middle_and_missing_metrics(self, copy: Path):
        path = copy / "debug" / "records.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if row["kind"] == "losses" and 5 in row["steps"]:
                row["values"][row["steps"].index(5)] = float("nan")
            if row["kind"] == "metrics":
                row["values"] = {}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = statuses(copy)
        assert found["ExplodingTensor"] is Status.ISSUE
        assert found["Overfit"] is Status.INSUFFICIENT_DATA
        assert Status.ERROR not in found.values()

    @pytest.mark.parametrize("name", ["records.jsonl", "timings.jsonl", "run.json", "activations.npz"])
    def test_missing_files(self, copy: Path, name: str):
        (copy / "debug" / name).unlink()
        assert Status.ERROR not in statuses(copy).values()

    def test_old_job_with_a_profile_only(self, copy: Path):
        shutil.rmtree(copy / "debug")
        recording = read_any(copy)
        assert "no debug-output" in recording.problems[0]
        assert statuses(copy)["OverallSystemUsage"] is Status.OK

    def test_folder_with_nothing_says_what_is_expected(self, tmp_path: Path):
        with pytest.raises(UserError, match="debug-output/"):
            write_report(tmp_path)


def configure(run: Path, rules: dict) -> None:
    path = run / "debug" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rules": rules}))


def compared(run: Path, rules: dict | None = None) -> tuple[Status, str]:
    found = {finding.rule: finding for finding in write_report(run, rules=rules, say=False).findings}
    return found["SimilarAcrossRuns"].status, found["SimilarAcrossRuns"].outcome.summary


def test_other_runs_that_the_training_itself_names_are_compared(copy: Path, run: Path, tmp_path: Path):
    again = shutil.copytree(run, tmp_path / "again")
    configure(copy, {"SimilarAcrossRuns": {"other_trials": f"{run}, {again}"}})  # as text, as AWS sends it
    assert compared(copy)[0] is Status.OK
    assert compared(copy, {"SimilarAcrossRuns": {"other_trials": [str(again)]}})[0] is Status.OK
    assert compared(copy, {"SimilarAcrossRuns": {"rtol": 1e-3}})[0] is Status.OK


def test_another_run_that_is_not_there_is_said(copy: Path, run: Path, tmp_path: Path):
    nothing = str(tmp_path / "nothing")
    assert compared(copy, {"SimilarAcrossRuns": True})[0] is Status.NOT_APPLICABLE
    status, said = compared(copy, {"SimilarAcrossRuns": {"other_trials": [nothing]}})
    assert (status, f"nothing recorded in {nothing}" in said) == (Status.INSUFFICIENT_DATA, True)
    assert compared(copy, {"SimilarAcrossRuns": {"other_trials": [nothing, str(run)]}})[0] is Status.OK
    assert f"nothing recorded in {nothing}" in (copy / "report.html").read_text()


def test_runs_are_found_below_a_sweeps_folder(run: Path, tmp_path: Path):
    for trial in ("sweep-001", "sweep-002"):
        shutil.copytree(run, tmp_path / "sweep" / trial / "ml" / "output" / "data")
    found = run_folders(tmp_path / "sweep")
    assert [path.relative_to(tmp_path / "sweep").parts[0] for path in found] == ["sweep-001", "sweep-002"]


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a bucket that boto3 reaches over HTTP."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    path = s3_server.root / "debugger-reports"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


class TestS3:
    def test_old_sagemaker_job(self, run: Path, bucket: Path, tmp_path: Path):
        pytest.importorskip("smdebug", reason="smdebug is not installed: pip install -e '.[debug]'")
        job = tmp_path / "job"
        parts = {"smdebug": {"enabled": True, "save_interval": 2}, "profiler": {"enabled": True, "interval_ms": 100}}
        train(job, TinyModel(), TinyData((32, 32), batch_size=16, val=8), 2, parts, test=False)
        for part in ("debug-output", "profiler-output"):
            shutil.copytree(job / part, bucket / "jobs" / "dogs-1" / part)
        (bucket / "jobs" / "dogs-1" / "output").mkdir()
        (bucket / "jobs" / "dogs-1" / "output" / "model.tar.gz").write_bytes(b"large")
        folder = download("s3://debugger-reports/jobs/dogs-1", tmp_path)
        assert folder == tmp_path / "dogs-1"
        assert not (folder / "output").exists()
        found = statuses(folder)
        assert found["VanishingGradient"] is found["OverallSystemUsage"] is Status.OK
        assert {"losses", "gradients", "weights", "system"} <= set(read_any(folder).inputs)

    def test_jobs_of_a_sweep_of_ours(self, run: Path, bucket: Path, tmp_path: Path):
        for trial in ("dogs-001-ab", "dogs-002-cd"):
            archive = bucket / "dogs" / trial / "output" / "output.tar.gz"
            archive.parent.mkdir(parents=True)
            with tarfile.open(archive, "w:gz") as tar:
                tar.add(run, arcname=".")
        folders = run_folders(download("s3://debugger-reports/dogs", tmp_path))
        assert [folder.name for folder in folders] == ["dogs-001-ab", "dogs-002-cd"]
        assert read_run(folders[1]).inputs["predictions"].split == "test"
        archive.write_bytes(archive.read_bytes()[:1000])
        with pytest.raises(UserError, match="is damaged"):
            download("s3://debugger-reports/dogs", tmp_path)

    @pytest.mark.parametrize(("url", "message"), [("debugger-reports/no", "debug-output/"), ("no", "NoSuchBucket")])
    def test_nothing_there_is_one_line(self, bucket: Path, tmp_path: Path, url: str, message: str):
        with pytest.raises(UserError, match=message):
            download(f"s3://{url}", tmp_path)

    def test_wrong_key_is_one_line(self, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(UserError, match="credentials"):
            download("s3://debugger-reports/jobs", tmp_path)


def test_findings_reach_an_mlflow_server_and_a_dead_one_is_no_error(run: Path):
    received: dict[str, dict] = {}

    class Server(BaseHTTPRequestHandler):
        def answer(self, status: int, body: dict) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self):
            self.answer(404, {})

        def do_POST(self):
            name = self.path.rpartition("mlflow/")[2]
            received[name] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(200, {"experiment_id": "7", "run": {"info": {"run_id": "abc"}}})

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    findings = evaluate(read_run(run))
    url = f"http://127.0.0.1:{server.server_port}"
    assert send_findings(findings, url, name="dogs") == "abc"
    server.shutdown()
    server.server_close()
    tags = {tag["key"]: tag["value"] for tag in received["runs/log-batch"]["tags"]}
    assert tags["finding.ClassImbalance"] == "issue"
    assert received["runs/create"]["run_name"] == "dogs"
    assert send_findings(findings, url) is None


def test_charts_hold_gaps_thin_long_lines_and_keep_extremes():
    x = np.arange(10_000.0)
    y = np.where(x == 4321, 99.0, np.sin(x))
    line = thinned(Line("loss", x, y))
    assert len(line.x) <= 300 and 99.0 in line.y
    svg = str(line_chart([Line("a", x[:5], np.array([1, 2, np.nan, 3, 4.0]))], Axes("step")))
    assert re.search(r'd="M[^"]*M', svg)  # the pen is lifted at the gap
    assert "nothing was recorded" in line_chart([Line("a", x[:2], np.array([np.nan] * 2))], Axes("step"))
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert bar_chart(np.array([0.0, 1, 2]), np.array([np.nan, 3.0]), Axes("x")).count("<rect") == 1


def test_confusion_of_133_classes_is_small_and_readable():
    names = [f"{i:03}.breed" for i in range(133)]
    html = heat_map(np.eye(133) * 100, names, names, cells="%", low=0, high=100)
    assert len(html) < 200_000
    assert "132.breed" in html


def test_summary_counts_every_status(run: Path):
    line = summary_line(evaluate(read_run(run)))
    assert sum(map(int, re.findall(r"=(\d+)", line))) == len(all_rules())
