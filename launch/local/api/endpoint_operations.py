"""SageMaker's operations for hosting, answered from files and processes on this machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from dogbreed.errors import UserError
from launch.local.api.errors import invalid
from launch.local.api.pagination import page, select
from launch.local.api.responses import timestamp
from launch.local.api.unsupported import endpoint_config_problems, model_problems
from launch.local.hosting.endpoints import (
    DESIRED,
    ENDPOINT,
    FOLDER,
    config_records,
    model_records,
    read_endpoint,
    remove_folder,
)
from launch.local.job_store import (
    LOG,
    REQUEST,
    Json,
    create_folder,
    job_arn,
    lock_if_free,
    read_json,
    request_stop,
    write_json,
)
from launch.local.jobs.process import start_supervisor


class EndpointOperations:
    """Endpoints as processes, with their state in files; arguments as for `LocalSageMaker`."""

    def __init__(self, root: Path, command: Sequence[str], stop_grace_s: float):
        self.root = root
        self.folder = root / FOLDER
        self.command = list(command)
        self.stop_grace_s = stop_grace_s
        self.models = model_records(root)
        self.configs = config_records(root)
        self._supervisors: list[subprocess.Popen[bytes]] = []

    def answer(self, operation: str, request: Json) -> Json:
        """Returns the response of an operation in `OPERATIONS`.

        Raises:
            ServiceError: An error of the API.
            UserError: The folder of endpoints cannot be written.
        """
        try:
            return OPERATIONS[operation](self, request)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written: {error.strerror}") from None

    def _create_model(self, request: Json) -> Json:
        return self.models.create(request, list(model_problems(request, self.root)))

    def _create_endpoint_config(self, request: Json) -> Json:
        for variant in request["ProductionVariants"]:
            self.models.request(variant.get("ModelName", ""))
        return self.configs.create(request, list(endpoint_config_problems(request)))

    def _create_endpoint(self, request: Json) -> Json:
        name, now = request["EndpointName"], time.time()
        self.configs.request(request["EndpointConfigName"])
        state = {
            "name": name,
            "arn": job_arn(ENDPOINT, name),
            "status": "Creating",
            "created": now,
            "modified": now,
            "config": request["EndpointConfigName"],
            "command": self.command,
            "stop_grace_s": self.stop_grace_s,
        }
        folder = self.folder / name
        try:
            lock = create_folder(folder, request, state, LOG)
        except FileExistsError:
            raise invalid(f'Cannot create already existing endpoint "{state["arn"]}"') from None
        self._supervisors = [process for process in self._supervisors if process.poll() is None]
        self._supervisors.append(start_supervisor("launch.local.hosting.endpoint_supervisor", folder, lock, LOG))
        return {"EndpointArn": state["arn"]}

    def _update_endpoint(self, request: Json) -> Json:
        folder, state = self.read(request["EndpointName"])
        self.configs.request(request["EndpointConfigName"])
        if state["status"] != "InService":
            raise invalid(f'Cannot update endpoint "{state["arn"]}", it is in status {state["status"]}')
        write_json(folder / DESIRED, {"config": request["EndpointConfigName"]})
        return {"EndpointArn": state["arn"]}

    def _delete_endpoint(self, request: Json) -> Json:
        folder, _ = self.read(request["EndpointName"])
        with lock_if_free(folder) as orphaned:
            if orphaned:
                remove_folder(folder)
            else:
                request_stop(folder, "user", "deleted by request")
        return {}

    def _describe_endpoint(self, request: Json) -> Json:
        folder, state = self.read(request["EndpointName"])
        response = _summary(state) | {"EndpointConfigName": state["config"]}
        if state["status"] == "Updating":
            pending = read_json(folder / DESIRED).get("config") or state.get("pending", state["config"])
            response["PendingDeploymentSummary"] = {"EndpointConfigName": pending}
        if "port" in state:
            counts = dict.fromkeys(("CurrentInstanceCount", "DesiredInstanceCount"), 1)  # this machine
            weights = dict.fromkeys(("CurrentWeight", "DesiredWeight"), 1.0)
            response["ProductionVariants"] = [{"VariantName": state["variant"], **counts, **weights}]
        return response | ({"FailureReason": state["failure"]} if "failure" in state else {})

    def _list_endpoints(self, request: Json) -> Json:
        states = []
        for path in sorted(self.folder.glob(f"[!_]*/{REQUEST}")):
            with suppress(FileNotFoundError):  # deleted in the meantime
                states.append(read_endpoint(path.parent))
        selected, more = page(select(states, {"SortOrder": "Descending", **request}, "CreationTime"), request)
        return {"Endpoints": [_summary(state) for state in selected], **more}

    def read(self, name: str) -> tuple[Path, Json]:
        """Returns the folder of an endpoint and its state.

        Raises:
            ServiceError: There is no endpoint of that name.
        """
        try:
            return self.folder / name, read_endpoint(self.folder / name)
        except FileNotFoundError:
            raise invalid(f'Could not find endpoint "{job_arn(ENDPOINT, name)}"') from None


def _summary(state: Json) -> Json:
    return {
        "EndpointName": state["name"],
        "EndpointArn": state["arn"],
        "EndpointStatus": state["status"],
        "CreationTime": timestamp(state["created"]),
        "LastModifiedTime": timestamp(state["modified"]),
    }


OPERATIONS: dict[str, Callable[[EndpointOperations, Json], Json]] = {
    "CreateModel": EndpointOperations._create_model,
    "CreateEndpointConfig": EndpointOperations._create_endpoint_config,
    "CreateEndpoint": EndpointOperations._create_endpoint,
    "UpdateEndpoint": EndpointOperations._update_endpoint,
    "DeleteEndpoint": EndpointOperations._delete_endpoint,
    "DescribeEndpoint": EndpointOperations._describe_endpoint,
    "ListEndpoints": EndpointOperations._list_endpoints,
    "DeleteModel": lambda endpoints, request: endpoints.models.delete(request),
    "DescribeModel": lambda endpoints, request: endpoints.models.describe(request),
    "ListModels": lambda endpoints, request: endpoints.models.list(request),
    "DeleteEndpointConfig": lambda endpoints, request: endpoints.configs.delete(request),
    "DescribeEndpointConfig": lambda endpoints, request: endpoints.configs.describe(request),
    "ListEndpointConfigs": lambda endpoints, request: endpoints.configs.list(request),
}
"""Operation to the method that answers it."""
