"""LocalSageMaker behind a boto3 client, with boto3's own methods, paginators, waiters and exceptions."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import botocore.session

from launch.local.api.errors import ServiceError
from launch.local.api.operations import SERVE, STOP_GRACE_S, TRAIN, LocalSageMaker
from launch.local.job_store import Json
from launch.spec.service_model import model_loader

_PARAMETERS = "local_parameters"
_NO_ACCOUNT = {"region_name": "local", "aws_access_key_id": "local", "aws_secret_access_key": "local"}
"""boto3 requires a region and keys, although no request is sent."""
_NO_FILES = {"config_file": (None, None, os.devnull, None), "credentials_file": (None, None, os.devnull, None)}


class _Http(NamedTuple):
    """The part of an HTTP response that botocore reads."""

    status_code: int


def plain_client(service: str, **options: Any) -> Any:
    """Returns a boto3 client for requests that never leave this machine.

    It ignores the user's AWS settings, both environment variables and files.
    """
    variables = botocore.session.Session.SESSION_VARIABLES
    unset = {name: (None, None, default, convert) for name, (_, _, default, convert) in variables.items()}
    session = botocore.session.Session(session_vars=unset | _NO_FILES)
    session.register_component("data_loader", model_loader())
    options = _NO_ACCOUNT | {"endpoint_url": "http://this-machine"} | options
    return boto3.Session(botocore_session=session).client(service, **options)


def local_client(
    root: Path,
    command: Sequence[str] = TRAIN,
    stop_grace_s: float = STOP_GRACE_S,
    serve: Sequence[str] = SERVE,
) -> Any:
    """Returns a boto3 SageMaker client that needs no account and no network; the arguments are `LocalSageMaker`'s."""
    service = LocalSageMaker(root, command, stop_grace_s, serve)
    client = plain_client("sagemaker")

    def keep_parameters(params: Json, context: Json, **_: Any) -> None:
        context[_PARAMETERS] = params

    def answer(model: Any, context: Json, **_: Any) -> tuple[_Http, Json]:
        try:
            return _Http(200), _with_metadata(service.answer(model.name, context[_PARAMETERS]), 200)
        except ServiceError as error:
            return _Http(400), _with_metadata({"Error": {"Code": error.code, "Message": str(error)}}, 400)

    # Keep the parameters before botocore serializes them.
    client.meta.events.register_last("before-parameter-build.sagemaker", keep_parameters)
    # botocore takes the return value of this handler for the parsed response and sends nothing.
    client.meta.events.register("before-call.sagemaker", answer)
    return client


def _with_metadata(response: Json, status: int) -> Json:
    metadata = {"RequestId": str(uuid.uuid4()), "HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0}
    return {**response, "ResponseMetadata": metadata}
