"""An endpoint as the API tells of it: whether it is there, what it serves; waiting until it answers or is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import Signals
from typing import Any

from botocore.exceptions import ClientError
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from dogbreed.errors import UserError, did_you_mean
from launch.backends import open_backend
from launch.runs.polling import RetryingPoller, follow
from launch.spec.contract import Json
from launch.spec.requests.endpoint import PRICE_TAG, TRAINING, is_made_for, scaling_target
from launch.views.text import duration

SETTLED = frozenset({"InService", "Failed", "OutOfService", "UpdateRollbackFailed"})
"""Statuses that an endpoint does not leave by itself."""
GONE = "gone"
NEWEST = 50
"""Endpoints that are listed."""


def is_missing(error: ClientError) -> bool:
    """Returns whether the API says that what was asked for is not there."""
    message = error.response["Error"]["Message"]
    return error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound") and "ould not find" in message


def describe_endpoint(client: Any, name: str) -> Json | None:
    """Returns what the API says of an endpoint; None where there is none of that name."""
    try:
        found: Json = client.describe_endpoint(EndpointName=name)
    except ClientError as error:
        if not is_missing(error):
            raise
        return None
    return found


def list_endpoints(client: Any) -> list[Json]:
    """Returns the API's summaries of the newest endpoints, newest first."""
    pages = client.get_paginator("list_endpoints").paginate(
        SortBy="CreationTime", SortOrder="Descending", PaginationConfig={"MaxItems": NEWEST}
    )
    return [endpoint for page in pages for endpoint in page["Endpoints"]]


def unknown_endpoint(client: Any, name: str) -> UserError:
    """Returns the error that says so and names those that there are."""
    known = [endpoint["EndpointName"] for endpoint in list_endpoints(client)]
    hint = did_you_mean(name, known).replace("allowed", "there are") if known else "; there are none yet"
    advice = "" if known else ": python -m launch.deploy from_training=NAME makes one"
    return UserError(f"no endpoint is called '{name}'{hint}{advice}")


@dataclass(frozen=True)
class Standing:
    """What an endpoint serves and on what."""

    training: str
    """Where its model comes from; empty where it was not made by this launcher."""
    model_name: str
    variant: Json
    """Of the endpoint configuration."""
    count: int
    """Instances in service now."""
    price_per_hour: float | None
    """Of one instance, as it was given when the endpoint was deployed."""

    @property
    def cost_per_hour(self) -> float | None:
        """Returns what it costs an hour; 0 where it is serverless, None where nobody said what an instance costs."""
        if "ServerlessConfig" in self.variant:
            return 0.0
        return None if self.price_per_hour is None else self.price_per_hour * self.count


def read_standing(client: Any, endpoint: Json) -> Standing:
    """Returns what a described endpoint serves; what was deleted under it is left empty."""
    variant: Json = {}
    model: Json = {}
    with _if_there():  # an endpoint goes on without the configuration and the model that it was made from
        config = client.describe_endpoint_config(EndpointConfigName=endpoint.get("EndpointConfigName", "none"))
        variant = config["ProductionVariants"][0]
        model = client.describe_model(ModelName=variant["ModelName"])
    tags = client.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
    price = next((tag["Value"] for tag in tags if tag["Key"] == PRICE_TAG), None)
    running = (endpoint.get("ProductionVariants") or [{}])[0]
    return Standing(
        training=model.get("PrimaryContainer", {}).get("Environment", {}).get(TRAINING, ""),
        model_name=variant.get("ModelName", ""),
        variant=variant,
        count=int(running.get("CurrentInstanceCount", 0)),
        price_per_hour=None if price is None else float(price),
    )


class EndpointWatch:
    """An endpoint that is watched until it does not change any more by itself.

    Args:
        client: boto3's sagemaker client.
        name: of the endpoint.
        out: where a line is printed for each of its statuses.
        gone: it is to be waited for until it is gone.

    Attributes:
        endpoint: as it was described last; None where it is gone, or was never seen.
        ended: whether it has come to rest.
    """

    kept_message = "what was made for it is removed"

    def __init__(self, client: Any, name: str, out: Console, gone: bool = False) -> None:
        self.endpoint: Json | None = None
        self._rest = {GONE} if gone else {GONE, *SETTLED}
        self.ended = False
        self._client, self._name, self._out = client, name, out
        self._patient = RetryingPoller(out)
        self._began, self._said = time.monotonic(), ""

    def poll(self) -> bool:
        """Asks how it is and tells what is new; returns whether it has come to rest."""
        answer = self._patient(lambda: (describe_endpoint(self._client, self._name),))
        if answer is not None:
            (self.endpoint,) = answer
            self.ended = self._status in self._rest
            if self._status != self._said:
                self._said = self._status
                self._out.print(f"[{self._status}] {duration(time.monotonic() - self._began)}")
        return self.ended

    def render(self) -> Text:
        """Returns its status and for how long it has been watched."""
        return Text(f"{self._status}, {duration(time.monotonic() - self._began)}")

    def stop(self) -> None:
        """Deletes it."""
        self._client.delete_endpoint(EndpointName=self._name)

    @property
    def _status(self) -> str:
        return GONE if self.endpoint is None else str(self.endpoint["EndpointStatus"])


def forget(client: Any, endpoint_name: str, config_name: str) -> None:
    """Deletes an endpoint configuration and its model, where they were made for this endpoint by this launcher."""
    if not is_made_for(config_name, endpoint_name):
        return
    with _if_there():
        variant = client.describe_endpoint_config(EndpointConfigName=config_name)["ProductionVariants"][0]
        client.delete_endpoint_config(EndpointConfigName=config_name)
        client.delete_model(ModelName=variant["ModelName"])


@contextmanager
def _if_there() -> Iterator[None]:
    """Lets errors pass that say that something is not there."""
    try:
        yield
    except ClientError as error:
        if not is_missing(error):
            raise


def remove_endpoint(client: Any, cfg: DictConfig, endpoint: Json, out: Console) -> Signals | None:
    """Deletes a described endpoint and, when it is gone, what was made for it alone.

    Returns:
        The signal that ended the waiting, if any.
    """
    name = endpoint["EndpointName"]
    _end_scaling(cfg, name, out)
    if endpoint["EndpointStatus"] != "Deleting":
        client.delete_endpoint(EndpointName=name)
    left = follow(EndpointWatch(client, name, out, gone=True), out, open_backend(cfg).poll_s, detach=True)
    forget(client, name, endpoint.get("EndpointConfigName", ""))
    return left


def _end_scaling(cfg: DictConfig, name: str, out: Console) -> None:
    """Ends the automatic scaling of an endpoint at AWS, where it has one: nothing else would."""
    scaling, target = open_backend(cfg).scaling_client(), scaling_target(name)
    if scaling is None:
        return
    place = {"ServiceNamespace": target["ServiceNamespace"], "ResourceIds": [target["ResourceId"]]}
    try:
        if scaling.describe_scalable_targets(**place)["ScalableTargets"]:
            scaling.deregister_scalable_target(**target)
    except ClientError as error:  # must not keep an endpoint alive that costs by the hour
        out.print(f"its scaling, if it has any, cannot be ended: {error}", soft_wrap=True)
