"""Endpoints on this machine: SageMaker's operations for hosting, answered from files and processes.

`root/endpoints/NAME/` is an endpoint's folder: request.json, state.json, log.txt and the unpacked models; the process
that answers is watched by `host`. Models and endpoint configurations lie beside them as `records`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.local.api.errors import invalid
from launch.local.api.pagination import page, select
from launch.local.api.records import Records
from launch.local.api.responses import timestamp
from launch.local.job_state import end_stray, job_arn
from launch.local.job_store import (
    LOG,
    REQUEST,
    STATE,
    STOP,
    make_folder,
    read_json,
    start_supervisor,
    unheld,
    write_json,
)
from launch.local.jobs.container import local_path

FOLDER = "endpoints"
ENDPOINT = "endpoint"
DESIRED = "desired.json"
"""In an endpoint's folder: the configuration that it is asked to change to."""
ONLY_AT_AWS = ("DataCaptureConfig", "AsyncInferenceConfig", "ExplainerConfig", "ShadowProductionVariants")

Json = dict[str, Any]


class Hosting:
    """Endpoints as processes, their state as files.

    Args:
        root: the folder that `s3://local` stands for.
        command: what serves a model folder; `--model-dir`, `--port` and `--ready-file` are added to it.
        stop_grace_s: seconds from SIGTERM to SIGKILL for endpoints made by this service.
    """

    def __init__(self, root: Path, command: Sequence[str], stop_grace_s: float):
        self.root = root
        self.folder = root / FOLDER
        self.command = list(command)
        self.stop_grace_s = stop_grace_s
        self._supervisors: list[subprocess.Popen[bytes]] = []
        # Names of endpoints begin with a letter or a digit, so these are none.
        self.models = Records(self.folder / "_models", "model", "Model")
        self.configs = Records(self.folder / "_configs", "endpoint-config", "EndpointConfig")

    def create_model(self, request: Json) -> Json:
        """Keeps which model data an endpoint is to serve."""
        return self.models.create(request, list(_refuse_model(request, self.root)))

    def create_endpoint_config(self, request: Json) -> Json:
        """Keeps how a model is to be served."""
        problems = [
            f"{field}: not done on this machine; leave it out, or give backend=sagemaker"
            for field in ONLY_AT_AWS
            if field in request
        ]
        if len(request["ProductionVariants"]) > 1:
            problems.append("ProductionVariants: one is served on this machine; give one")
        for variant in request["ProductionVariants"]:
            self.models.request(variant.get("ModelName", ""))
        return self.configs.create(request, problems)

    def create_endpoint(self, request: Json) -> Json:
        """Starts the process that serves an endpoint."""
        name, now = request["EndpointName"], time.time()
        self.configs.request(request["EndpointConfigName"])
        state = {
            "name": name, "arn": job_arn(ENDPOINT, name), "status": "Creating", "created": now, "modified": now,
            "config": request["EndpointConfigName"], "command": self.command, "stop_grace_s": self.stop_grace_s,
        }  # fmt: skip
        folder = self.folder / name
        try:
            lock = make_folder(folder, request, state, LOG)
        except FileExistsError:
            raise invalid(f'Cannot create already existing endpoint "{state["arn"]}"') from None
        self._supervisors = [process for process in self._supervisors if process.poll() is None]
        self._supervisors.append(start_supervisor("launch.local.hosting.endpoint_supervisor", folder, lock, LOG))
        return {"EndpointArn": state["arn"]}

    def update_endpoint(self, request: Json) -> Json:
        """Asks an endpoint to change to another configuration; the old one answers until the new one can."""
        folder, state = self.look(request["EndpointName"])
        self.configs.request(request["EndpointConfigName"])
        if state["status"] != "InService":
            raise invalid(f'Cannot update endpoint "{state["arn"]}", it is in status {state["status"]}')
        write_json(folder / DESIRED, {"config": request["EndpointConfigName"]})
        return {"EndpointArn": state["arn"]}

    def delete_endpoint(self, request: Json) -> Json:
        """Asks an endpoint to finish what it is answering, to end, and to be gone."""
        folder, _ = self.look(request["EndpointName"])
        with unheld(folder) as orphaned:
            if orphaned:
                remove_folder(folder)
            else:
                write_json(folder / STOP, {"kind": "user", "because": "deleted by request"})
        return {}

    def describe_endpoint(self, request: Json) -> Json:
        """Returns what is known of an endpoint."""
        state = self.look(request["EndpointName"])[1]
        answer = _summary(state) | {"EndpointConfigName": state["config"]}
        if "port" in state:
            answer["ProductionVariants"] = [_in_service(state)]
        return answer | ({"FailureReason": state["failure"]} if "failure" in state else {})

    def list_endpoints(self, request: Json) -> Json:
        """Returns the endpoints."""
        states = []
        for path in sorted(self.folder.glob(f"[!_]*/{REQUEST}")):
            with suppress(FileNotFoundError):  # gone in the meantime
                states.append(look(path.parent))
        found, more = page(select(states, {"SortOrder": "Descending", **request}, "CreationTime"), request)
        return {"Endpoints": [_summary(state) for state in found], **more}

    def look(self, name: str) -> tuple[Path, Json]:
        """Returns the folder of an endpoint and its state.

        Raises:
            ServiceError: there is none of that name.
        """
        try:
            return self.folder / name, look(self.folder / name)
        except FileNotFoundError:
            raise invalid(f'Could not find endpoint "{job_arn(ENDPOINT, name)}"') from None


def look(folder: Path) -> Json:
    """Returns the state of the endpoint in `folder`; one whose supervisor died is Failed, and its server is ended.

    Raises:
        FileNotFoundError: there is no such endpoint.
    """
    if not (folder / REQUEST).exists():
        raise FileNotFoundError(folder)
    then = folder.stat().st_mtime
    known = {"name": folder.name, "arn": job_arn(ENDPOINT, folder.name), "created": then, "modified": then}
    state = {**known, "status": "Creating", "config": "unknown", **_settled(folder)}
    if (folder / STOP).exists():
        state["status"] = "Deleting"
        with unheld(folder) as orphaned:
            if orphaned:  # whoever was to delete it is gone
                remove_folder(folder)
                raise FileNotFoundError(folder)
    elif state["status"] == "InService" and (folder / DESIRED).exists():
        state["status"] = "Updating"
    return state


def _settled(folder: Path) -> Json:
    """Returns what `state.json` says, having set it to Failed where the supervisor died before its end."""
    state = read_json(folder / STATE)
    if state.get("status") == "Failed":
        return state
    with unheld(folder) as orphaned:
        if not orphaned:
            return state
        state = read_json(folder / STATE)  # it may have written its last word before it let go
        if state.get("status") == "Failed" or not (folder / REQUEST).exists():
            return state
        end_stray(state)
        end_stray(state.pop("coming", {}))
        reason = f"its supervisor process ended without a word (killed, or the machine stopped); see {folder / LOG}"
        state |= {"status": "Failed", "failure": reason, "modified": time.time()}
        state.pop("port", None)
        with suppress(OSError):  # another user's folder can be looked at, not mended
            write_json(folder / STATE, state)
    return state


def page_url(root: Path, name: str) -> str:
    """Returns the address of an endpoint's page on this machine; empty where it does not answer."""
    with suppress(FileNotFoundError):
        if port := look(root / FOLDER / name).get("port"):
            return f"http://127.0.0.1:{port}/"
    return ""


def remove_folder(folder: Path) -> None:
    """Removes an endpoint's folder: in one step for whoever looks at it."""
    gone = folder.with_name(f"_gone-{folder.name}-{os.getpid()}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _in_service(state: Json) -> Json:
    """Returns the variant that answers: one instance, this machine, whatever was asked for."""
    counts = dict.fromkeys(("CurrentInstanceCount", "DesiredInstanceCount"), 1)
    weights = dict.fromkeys(("CurrentWeight", "DesiredWeight"), 1.0)
    return {"VariantName": state["variant"], **counts, **weights}


def _summary(state: Json) -> Json:
    return {
        "EndpointName": state["name"],
        "EndpointArn": state["arn"],
        "EndpointStatus": state["status"],
        "CreationTime": timestamp(state["created"]),
        "LastModifiedTime": timestamp(state["modified"]),
    }


def _refuse_model(request: Json, root: Path) -> Iterator[str]:
    """Yields why a model cannot be served on this machine."""
    container = request.get("PrimaryContainer", {})
    folder = container.get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri")
    url = container.get("ModelDataUrl") or folder
    if url is None:
        yield "PrimaryContainer.ModelDataUrl: missing; give that of a training's model.tar.gz"
        return
    target = local_path(url, root)
    if target is None and folder:
        yield f"PrimaryContainer.ModelDataSource: {url} is not copied to this machine; give a ModelDataUrl"
    elif target is not None and not target.exists():
        yield f"Could not access model data at {url}: {target} does not exist"


OPERATIONS: dict[str, Callable[[Hosting, Json], Json]] = {
    "CreateModel": Hosting.create_model,
    "CreateEndpointConfig": Hosting.create_endpoint_config,
    "CreateEndpoint": Hosting.create_endpoint,
    "UpdateEndpoint": Hosting.update_endpoint,
    "DeleteEndpoint": Hosting.delete_endpoint,
    "DescribeEndpoint": Hosting.describe_endpoint,
    "ListEndpoints": Hosting.list_endpoints,
    "DeleteModel": lambda hosting, request: hosting.models.delete(request),
    "DescribeModel": lambda hosting, request: hosting.models.describe(request),
    "ListModels": lambda hosting, request: hosting.models.list(request),
    "DeleteEndpointConfig": lambda hosting, request: hosting.configs.delete(request),
    "DescribeEndpointConfig": lambda hosting, request: hosting.configs.describe(request),
    "ListEndpointConfigs": lambda hosting, request: hosting.configs.list(request),
}
