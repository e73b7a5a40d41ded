"""The folder of an endpoint and its state.

`root/endpoints/NAME` contains request.json, state.json, log.txt and the unpacked models. Stored models and endpoint
configurations are in `_models` and `_configs` next to it: names of endpoints begin with a letter or a digit.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from launch.local.api.records import Records
from launch.local.job_store import LOG, REQUEST, STOP, Json, job_arn, kill_stray, lock_if_free, read_supervised

FOLDER = "endpoints"
ENDPOINT = "endpoint"
DESIRED = "desired.json"
"""File that requests another endpoint configuration."""


def model_records(root: Path) -> Records:
    """Returns the models stored under the folder of jobs."""
    return Records(root / FOLDER / "_models", "model", "Model")


def config_records(root: Path) -> Records:
    """Returns the endpoint configurations stored under the folder of jobs."""
    return Records(root / FOLDER / "_configs", "endpoint-config", "EndpointConfig")


def read_endpoint(folder: Path) -> Json:
    """Returns the state of an endpoint; if its supervisor died, kills its servers and records Failed.

    Raises:
        FileNotFoundError: There is no such endpoint.
    """
    if not (folder / REQUEST).exists():
        raise FileNotFoundError(folder)
    created = folder.stat().st_mtime
    state = {
        "name": folder.name,
        "arn": job_arn(ENDPOINT, folder.name),
        "status": "Creating",
        "created": created,
        "modified": created,
        "config": "unknown",
        **read_supervised(folder, {"Failed"}, lambda state: _lost(folder, state)),
    }
    if (folder / STOP).exists():
        state["status"] = "Deleting"
        with lock_if_free(folder) as orphaned:
            if orphaned:  # the supervisor cannot delete it any more
                remove_folder(folder)
                raise FileNotFoundError(folder)
    elif state["status"] == "InService" and (folder / DESIRED).exists():
        state["status"] = "Updating"
    return state


def _lost(folder: Path, state: Json) -> Json:
    kill_stray(state)
    kill_stray(state.get("next", {}))
    reason = f"the supervisor process died (killed, or the machine stopped); see {folder / LOG}"
    remaining = {key: value for key, value in state.items() if key not in ("next", "port")}
    return {**remaining, "status": "Failed", "failure": reason, "modified": time.time()}


def page_url(root: Path, name: str) -> str | None:
    """Returns the URL of an endpoint's web page; None unless the endpoint is in service."""
    with suppress(FileNotFoundError):
        if port := read_endpoint(root / FOLDER / name).get("port"):
            return f"http://127.0.0.1:{port}/"
    return None


def remove_folder(folder: Path) -> None:
    """Removes an endpoint's folder; atomic for other processes."""
    removed = folder.with_name(f"_removed-{folder.name}-{os.getpid()}")
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)
