"""Sends requests that create, stop or delete, so that repeating one or losing its answer does no harm.

botocore repeats a request whose answer is lost, and the repeated one is rejected because the first one succeeded. So
an error alone does not show what happened: the resource is described, and accepted if it is what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError

from dogbreed.errors import UserError
from launch.backends.aws.errors import is_not_found, is_rejected
from launch.spec.contract import TUNING_METRIC, Json
from launch.spec.naming import TERMINAL, sweep_of
from launch.spec.ownership import describe_owner, is_owned

KINDS = {
    "HyperParameterTuningJob": "sweep",
    "TrainingJob": "training",
    "Model": "model",
    "EndpointConfig": "endpoint configuration",
    "Endpoint": "endpoint",
}
"""Resource in the API's operations to its name in messages."""


class UnknownOutcomeError(UserError):
    """A request may have succeeded; nothing that it refers to must be deleted."""


def create(client: Any, operation: str, request: Json, owner: str) -> bool:
    """Sends a create request; accepts a resource with this content that an earlier attempt has created.

    Args:
        client: A boto3 SageMaker client.
        operation: `CreateModel`, `CreateTrainingJob`, ...
        request: The request.
        owner: Name in the tags of the resource.

    Returns:
        Whether the resource is new.

    Raises:
        ClientError: The request was rejected, and nothing was created.
        UserError: The name is taken by a resource that is not the launcher's.
        UnknownOutcomeError: The resource may exist or not.
    """
    resource = operation.removeprefix("Create")
    title = f"{KINDS[resource]} {request[f'{resource}Name']}"
    try:
        getattr(client, xform_name(operation))(**request)
    except (ClientError, BotoCoreError) as error:
        if is_rejected(error) and not _is_taken(error):
            raise
        found = _after(error, title, lambda: describe(client, resource, request[f"{resource}Name"]))
        if found is None:
            if isinstance(error, ClientError):
                raise
            raise _unknown(title, error) from error
        check_owned(client, resource, found, owner, "give another name=NAME")
        if not _is_part(_comparable(request), _comparable(found)) or (is_rejected(error) and _has_ended(found)):
            raise
        return not is_rejected(error)
    return True


def update_endpoint(client: Any, request: Json) -> None:
    """Sends UpdateEndpoint; accepts an update to the same configuration that is in progress or done.

    Raises:
        ClientError: The request was rejected, and the endpoint is unchanged.
        UnknownOutcomeError: The update may have begun.
    """
    name, config = request["EndpointName"], request["EndpointConfigName"]
    try:
        client.update_endpoint(**request)
    except (ClientError, BotoCoreError) as error:
        found = _after(error, f"update of endpoint {name}", lambda: describe(client, "Endpoint", name)) or {}
        pending = found.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
        if config in (found.get("EndpointConfigName"), pending):
            return
        if isinstance(error, ClientError) and (pending or found.get("EndpointStatus") != "Updating"):
            raise
        raise _unknown(f"update of endpoint {name}", error) from error


def delete(client: Any, resource: str, name: str) -> None:
    """Deletes a resource; accepts one that is deleted already or is being deleted."""
    try:
        getattr(client, f"delete_{xform_name(resource)}")(**{f"{resource}Name": name})
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and is_not_found(error):
            return
        found = _after(error, f"{KINDS[resource]} {name}", lambda: describe(client, resource, name))
        if found is not None and found.get("EndpointStatus") != "Deleting":
            raise


def stop(client: Any, resource: str, name: str) -> None:
    """Requests that a sweep or a training stops; accepts one that is stopping or has ended."""
    try:
        getattr(client, f"stop_{xform_name(resource)}")(**{f"{resource}Name": name})
    except (ClientError, BotoCoreError) as error:
        found = _after(error, f"{KINDS[resource]} {name}", lambda: describe(client, resource, name)) or {}
        if found.get(f"{resource}Status") not in {"Stopping", *TERMINAL}:
            raise


def describe(client: Any, resource: str, name: str) -> Json | None:
    """Returns the API's description of a resource; None if it does not exist."""
    try:
        found: Json = getattr(client, f"describe_{xform_name(resource)}")(**{f"{resource}Name": name})
    except ClientError as error:
        if not is_not_found(error):
            raise
        return None
    return found


def read_tags(client: Any, arn: str) -> dict[str, str]:
    """Returns the tags of a resource."""
    pages = client.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def check_owned(client: Any, resource: str, found: Json, owner: str, advice: str) -> None:
    """Checks that the launcher created a described resource for `owner`.

    Raises:
        UserError: It did not; the message ends with `advice`.
    """
    tags = read_tags(client, found[f"{resource}Arn"])
    if not is_owned(tags, owner):
        title = f"{KINDS[resource]} {found[f'{resource}Name']}"
        raise UserError(f"{title} exists, but launch did not create it ({describe_owner(tags)}): {advice}")


def owner_of(name: str) -> str:
    """Returns the name in the tags of a job: AMT gives a trial those of its sweep."""
    return sweep_of(name) or name


def _after(error: Exception, title: str, look: Callable[[], Json | None]) -> Json | None:
    """Returns what `look` finds after `error`.

    Raises:
        UnknownOutcomeError: It fails too.
    """
    try:
        return look()
    except (ClientError, BotoCoreError):
        raise _unknown(title, error) from error


def _unknown(title: str, error: Exception) -> UnknownOutcomeError:
    return UnknownOutcomeError(
        f"AWS does not answer ({error}): whether {title} took effect is unknown, and it may cost money; "
        "repeat the command, which changes nothing twice"
    )


def _is_taken(error: Exception) -> bool:
    if not isinstance(error, ClientError):
        return False
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    return code == "ResourceInUse" or "already exist" in message


def _has_ended(found: Json) -> bool:
    """Whether a described job has ended; another one of that name must then get another name."""
    statuses = (found.get("TrainingJobStatus"), found.get("HyperParameterTuningJobStatus"))
    return any(status in TERMINAL for status in statuses)


def _comparable(content: Any) -> Any:
    """Returns a request or a description without tags and without the hyperparameter that AMT adds."""
    if isinstance(content, Mapping):
        return {key: _comparable(value) for key, value in content.items() if key not in ("Tags", TUNING_METRIC)}
    return [_comparable(item) for item in content] if isinstance(content, (list, tuple)) else content


def _is_part(request: Any, found: Any) -> bool:
    """Returns whether a description has everything in a request; the service adds defaults."""
    if isinstance(request, dict):
        return isinstance(found, dict) and all(key in found and _is_part(v, found[key]) for key, v in request.items())
    if isinstance(request, list):
        same_length = isinstance(found, list) and len(request) == len(found)
        return same_length and all(map(_is_part, request, found))
    return bool(request == found)
