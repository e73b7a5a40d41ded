"""LocalSageMaker behind a boto3 client: methods, arguments, paginators, waiters and exceptions are boto3's own."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import botocore.session

from launch.local.api.errors import ServiceError
from launch.local.api.operations import SERVE, STOP_GRACE_S, LocalSageMaker
from launch.spec.service_model import model_loader

_PARAMETERS = "local_parameters"
_NO_ACCOUNT = {"region_name": "local", "aws_access_key_id": "local", "aws_secret_access_key": "local"}
"""boto3 insists on a region and keys; nothing is signed for anybody here."""
_NO_FILES = {"config_file": (None, None, os.devnull, None), "credentials_file": (None, None, os.devnull, None)}

Json = dict[str, Any]


class _Http(NamedTuple):
    """As much of an HTTP response as botocore looks at."""

    status_code: int


def plain_client(service: str, **options: Any) -> Any:
    """Returns boto3's client of a SageMaker `service`, for requests that never leave this machine.

    It is the same whatever this machine's AWS settings say: no variable and no file of theirs is looked at.

    Args:
        service: by boto3's name.
        options: further arguments of boto3's `client`.
    """
    known = botocore.session.Session.SESSION_VARIABLES
    unset = {name: (None, None, default, convert) for name, (_, _, default, convert) in known.items()}
    session = botocore.session.Session(session_vars=unset | _NO_FILES)
    session.register_component("data_loader", model_loader())
    place = _NO_ACCOUNT | {"endpoint_url": "http://this-machine"}
    return boto3.Session(botocore_session=session).client(service, **place, **options)


def local_client(
    root: Path,
    command: Sequence[str] = (sys.executable, "-m", "launch.container.entry"),
    stop_grace_s: float = STOP_GRACE_S,
    serve: Sequence[str] = SERVE,
) -> Any:
    """Returns a boto3 SageMaker client whose requests are answered on this machine; it needs no account or network.

    Args:
        root: the folder that holds a folder for each job.
        command: what a training job runs, under the container contract.
        stop_grace_s: seconds a job has between SIGTERM and SIGKILL.
        serve: what an endpoint runs: it serves the folder that --model-dir names.
    """
    service = LocalSageMaker(root, command, stop_grace_s, serve)
    client = plain_client("sagemaker")

    def keep_parameters(params: Json, context: Json, **_: Any) -> None:
        context[_PARAMETERS] = params

    def answer(model: Any, context: Json, **_: Any) -> tuple[_Http, Json]:
        try:
            return _Http(200), _with_metadata(service.answer(model.name, context[_PARAMETERS]), 200)
        except ServiceError as error:
            return _Http(400), _with_metadata({"Error": {"Code": error.code, "Message": str(error)}}, 400)

    # The parameters as the user gave them, before botocore turns them into the body of a request ...
    client.meta.events.register_last("before-parameter-build.sagemaker", keep_parameters)
    # ... and what is returned here is taken for the parsed answer: nothing is sent.
    client.meta.events.register("before-call.sagemaker", answer)
    return client


def _with_metadata(answer: Json, status: int) -> Json:
    metadata = {"RequestId": str(uuid.uuid4()), "HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0}
    return {**answer, "ResponseMetadata": metadata}
