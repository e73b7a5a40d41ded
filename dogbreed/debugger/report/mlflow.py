"""Findings as tags and metrics of an MLflow run, over MLflow's REST interface: no client library is needed."""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from dogbreed.debugger.findings import Finding, Status

log = logging.getLogger(__name__)

_TIMEOUT_S = 10


def send_findings(
    findings: Sequence[Finding],
    tracking_uri: str,
    *,
    experiment: str = "dogbreed",
    run_id: str | None = None,
    name: str = "run",
    metrics: Mapping[str, float] | None = None,
) -> str | None:
    """Sends each finding as tag `finding.RULE` (its status) and metric `violations.RULE`; returns the run's id.

    A server that does not answer is said in the log and is no error: a training is worth more than its notes.

    Args:
        findings: What to send.
        tracking_uri: `http://server:5000`.
        experiment: Name of the experiment for a new run; made where it does not exist.
        run_id: An existing run; None: a new one named `name`.
        name: Name of a new run.
        metrics: Further metrics to send.
    """
    server = tracking_uri.rstrip("/")
    try:
        run = run_id or _new_run(server, experiment, name)
        now = int(time.time() * 1000)
        values = {f"violations.{finding.rule}": float(finding.outcome.violations) for finding in findings}
        values["findings.issues"] = float(sum(finding.status is Status.ISSUE for finding in findings))
        values |= dict(metrics or {})
        batch = {
            "run_id": run,
            "metrics": [{"key": k, "value": v, "timestamp": now, "step": 0} for k, v in values.items()],
            "tags": [{"key": f"finding.{finding.rule}", "value": finding.status.value} for finding in findings],
        }
        _post(server, "runs/log-batch", batch)
        if run_id is None:
            _post(server, "runs/update", {"run_id": run, "status": "FINISHED", "end_time": now})
    except (urllib.error.URLError, OSError, ValueError, KeyError) as error:
        log.warning("findings were not sent to MLflow at %s: %s", server, error)
        return None
    return run


def _new_run(server: str, experiment: str, name: str) -> str:
    try:
        found = _get(server, f"experiments/get-by-name?experiment_name={quote(experiment)}")
        number = found["experiment"]["experiment_id"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        number = _post(server, "experiments/create", {"name": experiment})["experiment_id"]
    body = {"experiment_id": number, "run_name": name, "start_time": int(time.time() * 1000)}
    return str(_post(server, "runs/create", body)["run"]["info"]["run_id"])


def _get(server: str, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server}/api/2.0/mlflow/{path}", timeout=_TIMEOUT_S) as answer:
        return dict(json.loads(answer.read() or b"{}"))


def _post(server: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    data = json.dumps(body).encode()
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return dict(json.loads(answer.read() or b"{}"))
