"""Reads the state of endpoints, and polls one until it is in service or deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError
from rich.console import Console
from rich.text import Text

from dogbreed.errors import UserError, did_you_mean
from launch.backends.aws.errors import explain_failure, is_not_found
from launch.runs.polling import RetryingPoller
from launch.spec.contract import Json
from launch.spec.endpoint_info import DELETED, EndpointInfo, parse_endpoint_info
from launch.views.text import duration

SETTLED = frozenset({"InService", "Failed", "OutOfService", "UpdateRollbackFailed"})
"""Statuses that an endpoint keeps until someone changes it."""

ANSWERING = frozenset({"InService", "Updating", "SystemUpdating", "RollingBack"})
"""Statuses in which an endpoint answers requests."""

MAX_LISTED = 50
"""Endpoints that are listed, newest first."""


def get_or_none(request: Callable[..., Json], **arguments: str) -> Json | None:
    """Returns the response of `request`, or None if the resource does not exist."""
    try:
        return request(**arguments)
    except ClientError as error:
        if not is_not_found(error):
            raise
        return None


def find_endpoint(client: Any, name: str) -> Json | None:
    """Returns the API's description of an endpoint, or None if it does not exist."""
    return get_or_none(client.describe_endpoint, EndpointName=name)


def get_endpoint(client: Any, name: str) -> Json:
    """Returns the API's description of an endpoint.

    Raises:
        UserError: there is no such endpoint; the message suggests similar names.
    """
    endpoint = find_endpoint(client, name)
    if endpoint is not None:
        return endpoint
    known = _list_names(client)
    if not known:
        raise UserError(
            f"no endpoint is called '{name}', there are none yet: type python -m launch.deploy from_training=NAME"
        )
    raise UserError(f"no endpoint is called '{name}'{did_you_mean(name, known, label='there are')}")


def check_answering(endpoint: Json) -> None:
    """Checks that an endpoint answers requests.

    Raises:
        UserError: it does not.
    """
    status = endpoint["EndpointStatus"]
    if status in ANSWERING:
        return
    reason = f" ({explain_failure(endpoint['FailureReason'])})" if "FailureReason" in endpoint else ""
    advice = "wait for it" if status == "Creating" else "python -m launch.deploy recreates it"
    raise UserError(f"endpoint {endpoint['EndpointName']} is {status} and does not answer{reason}; {advice}")


def read_endpoint_info(client: Any, endpoint: Json) -> EndpointInfo:
    """Returns the information about a described endpoint; its configuration and model may have been deleted."""
    config = get_or_none(client.describe_endpoint_config, EndpointConfigName=endpoint.get("EndpointConfigName", "none"))
    variants = (config or {}).get("ProductionVariants", [])
    model = get_or_none(client.describe_model, ModelName=variants[0]["ModelName"]) if variants else None
    tags = client.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
    return parse_endpoint_info(endpoint, config or {}, model or {}, tags)


def list_endpoints(client: Any) -> list[EndpointInfo]:
    """Returns the newest endpoints, newest first."""
    with ThreadPoolExecutor(8) as threads:  # four requests per endpoint
        found = threads.map(lambda name: find_endpoint(client, name), _list_names(client))
        return list(threads.map(lambda endpoint: read_endpoint_info(client, endpoint), filter(None, found)))


def _list_names(client: Any) -> Sequence[str]:
    pages = client.get_paginator("list_endpoints").paginate(
        SortBy="CreationTime", SortOrder="Descending", PaginationConfig={"MaxItems": MAX_LISTED}
    )
    return [endpoint["EndpointName"] for page in pages for endpoint in page["Endpoints"]]


class EndpointPoll:
    """Polls an endpoint until it is settled or, with `until_deleted`, until it is deleted; prints each new status.

    Attributes:
        endpoint: The latest description; None if the endpoint does not exist.
        ended: Whether the status is settled.
    """

    kept_message = "the unfinished endpoint is deleted"

    def __init__(self, client: Any, name: str, out: Console, until_deleted: bool = False) -> None:
        self.endpoint: Json | None = None
        self.ended = False
        self._final = {DELETED} if until_deleted else {DELETED, *SETTLED}
        self._client, self._name, self._out = client, name, out
        self._poller = RetryingPoller(out)
        self._started, self._printed = time.monotonic(), ""

    def poll(self) -> bool:
        """Reads the status and prints it if it is new; returns whether it is settled."""
        response = self._poller(lambda: (find_endpoint(self._client, self._name),))
        if response is not None:
            (self.endpoint,) = response
            self.ended = self._status in self._final
            if self._status != self._printed:
                self._printed = self._status
                self._out.print(f"[{self._status}] {duration(time.monotonic() - self._started)}")
        return self.ended

    def render(self) -> Text:
        """Returns the status and the time since polling began."""
        return Text(f"{self._status}, {duration(time.monotonic() - self._started)}")

    def stop(self) -> None:
        """Deletes the endpoint."""
        self._client.delete_endpoint(EndpointName=self._name)

    @property
    def _status(self) -> str:
        return DELETED if self.endpoint is None else str(self.endpoint["EndpointStatus"])
