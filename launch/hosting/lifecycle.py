"""Life cycle of an endpoint: create or update it, wait until it is in service, clean up, delete it.

The order matters at every step: nothing that is in use is deleted, and nothing that costs money is left behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from signal import Signals
from typing import Any

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError
from omegaconf import DictConfig
from rich.console import Console

from dogbreed.errors import UserError
from launch.backends import Backend
from launch.backends.base import Upload
from launch.hosting.endpoint_state import EndpointPoll
from launch.runs.polling import Interrupted, follow
from launch.runs.requests import UnknownOutcomeError, create, delete, describe, read_tags, update_endpoint
from launch.spec.contract import Json
from launch.spec.limits import SERVICES
from launch.spec.ownership import is_owned
from launch.spec.requests.endpoint import (
    TrainedModel,
    endpoint_requests,
    price_tags,
    scaling_target,
)
from launch.views.endpoint_tables import print_detached, print_failure, print_in_service

_REPLACED = ("Failed", "Deleting")
"""Statuses of an endpoint that is deleted and created again instead of being updated."""


@dataclass(frozen=True)
class Deployment:
    """One deployment, planned and validated but not started."""

    cfg: DictConfig
    backend: Backend
    model: TrainedModel
    requests: Mapping[str, Json]
    """Operation to request, in order."""
    upload: Upload
    existing: Json | None
    """Description of the endpoint of this name, if there is one."""
    image_note: str = ""
    """Versions in the image, and until when it is patched."""

    @property
    def name(self) -> str:
        """Name of the endpoint."""
        return str(self.cfg.name)

    @property
    def config_name(self) -> str:
        """Name of the new endpoint configuration."""
        return str(self.requests["CreateEndpointConfig"]["EndpointConfigName"])

    @property
    def old_config_name(self) -> str | None:
        """Name of the configuration that an update replaces; None if there is none or it stays."""
        old = None if self.existing is None else str(self.existing["EndpointConfigName"])
        return None if old == self.config_name else old

    @property
    def updates(self) -> bool:
        """Whether the endpoint exists and is updated."""
        return "UpdateEndpoint" in self.requests

    @property
    def is_deployed(self) -> bool:
        """Whether the endpoint has this model and these settings already."""
        return self.updates and self.old_config_name is None


def plan_deployment(cfg: DictConfig, backend: Backend, model: TrainedModel, existing: Json | None) -> Deployment:
    """Returns the deployment of `model` as the endpoint `cfg.name`; nothing is sent or uploaded.

    Raises:
        UserError: settings contradict each other, or the endpoint of this name must not be changed now.
    """
    target, model, upload = backend.prepare_endpoint(cfg, model)
    update = existing is not None and existing["EndpointStatus"] not in _REPLACED
    requests = endpoint_requests(cfg, model, target, update)
    plan = Deployment(cfg, backend, model, requests, upload, existing, target.image_note)
    if existing is None:
        return plan
    status = existing["EndpointStatus"]
    if plan.old_config_name is not None and status not in ("InService", *_REPLACED):
        delete = backend.command_line("undeploy", plan.name)
        raise UserError(f"endpoint {plan.name} is {status}: wait until that has finished, or delete it: {delete}")
    return plan


def deploy(client: Any, plan: Deployment, out: Console) -> int:
    """Sends the requests and waits for the endpoint.

    Returns:
        0 if the endpoint is in service, 1 if it failed, or 128 + the signal that stopped or detached it.
    """
    name, backend = plan.name, plan.backend
    if plan.existing is not None and not plan.updates:
        out.print(f"endpoint {name} is {plan.existing['EndpointStatus']}; recreating it", soft_wrap=True)
        if received := delete_endpoint(client, backend, plan.existing, out):
            return 128 + received
    poll = EndpointPoll(client, name, out)
    detach = backend.detaches or plan.updates
    with Interrupted() as interrupted:  # entered before the requests: Ctrl-C never leaves a half-created endpoint
        if plan.is_deployed:
            out.print(f"endpoint {name} has this model and these settings already", soft_wrap=True)
        else:
            _send(client, plan)
        if plan.existing is not None and plan.updates and (tags := price_tags(plan.cfg)):
            client.add_tags(ResourceArn=plan.existing["EndpointArn"], Tags=tags)
        received = follow(poll, out, backend.poll_s, detach=detach, interrupted=interrupted)
    if received and detach and not poll.ended:
        print_detached(backend, name, received.name, out)
        return 128 + received
    if received and poll.endpoint is None:  # Ctrl-C deleted it
        delete_owned_resources(client, name, plan.config_name)
        out.print(f"endpoint {name} and its resources are deleted")
        return 128 + received
    return _finish(client, plan, poll.endpoint, out)


def _finish(client: Any, plan: Deployment, endpoint: Json | None, out: Console) -> int:
    """Cleans up after an endpoint has settled; returns 0 if it serves the new model, otherwise 1."""
    name, config_name = plan.name, plan.config_name
    serving = (endpoint or {}).get("EndpointConfigName")
    if endpoint is None or (endpoint["EndpointStatus"], serving) != ("InService", config_name):
        print_failure(plan.backend, name, endpoint, out)
        if endpoint is not None and serving != config_name:  # the update was rolled back
            delete_owned_resources(client, name, config_name)
        return 1
    if plan.old_config_name is not None:
        delete_owned_resources(client, name, plan.old_config_name)
    print_in_service(plan.backend, name, out)
    scaling = {operation: request for operation, request in plan.requests.items() if operation in SERVICES}
    if plan.updates and not scaling:
        end_scaling(plan.backend, name, out)
    for operation, request in scaling.items():
        getattr(plan.backend.scaling_client(), xform_name(operation))(**request)
    return 0


def _send(client: Any, plan: Deployment) -> None:
    """Sends the requests that create or update the endpoint; deletes what it created if one of them is rejected."""
    created = []
    try:
        for operation, request in plan.requests.items():
            if operation == "UpdateEndpoint":
                update_endpoint(client, request)
            elif operation not in SERVICES and create(client, operation, request, plan.name):
                created.append(operation.removeprefix("Create"))
    except (ClientError, UserError) as error:
        if not isinstance(error, UnknownOutcomeError):  # otherwise they may be in use
            for resource in reversed(created):
                delete(client, resource, plan.config_name)
        raise


def delete_endpoint(client: Any, backend: Backend, endpoint: Json, out: Console) -> Signals | None:
    """Deletes a described endpoint, waits until it is deleted, and deletes the resources made for it alone.

    Returns:
        The signal that ended the waiting, if any; the deletion then continues.
    """
    name = endpoint["EndpointName"]
    end_scaling(backend, name, out)
    if endpoint["EndpointStatus"] != "Deleting":
        delete(client, "Endpoint", name)
    received = follow(EndpointPoll(client, name, out, until_deleted=True), out, backend.poll_s, detach=True)
    delete_owned_resources(client, name, endpoint.get("EndpointConfigName", ""))
    return received


def delete_owned_resources(client: Any, endpoint_name: str, config_name: str) -> None:
    """Deletes the configuration and the model of that name if `launch.deploy` created them for this endpoint."""
    for resource in ("EndpointConfig", "Model"):
        found = describe(client, resource, config_name)
        if found is not None and is_owned(read_tags(client, found[f"{resource}Arn"]), endpoint_name):
            delete(client, resource, config_name)


def end_scaling(backend: Backend, name: str, out: Console) -> None:
    """Deregisters the autoscaling of an endpoint, if it has any; prints errors, which must not keep it running."""
    scaling, target = backend.scaling_client(), scaling_target(name)
    if scaling is None:
        return
    try:
        registered = scaling.describe_scalable_targets(
            ServiceNamespace=target["ServiceNamespace"], ResourceIds=[target["ResourceId"]]
        )
        if registered["ScalableTargets"]:
            scaling.deregister_scalable_target(**target)
    except (ClientError, BotoCoreError) as error:
        out.print(f"autoscaling, if there is any, cannot be deregistered: {error}", soft_wrap=True)
