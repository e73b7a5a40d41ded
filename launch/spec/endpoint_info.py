"""State, model and cost of an endpoint, parsed from the API's descriptions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from launch.spec.contract import Json
from launch.spec.requests.endpoint import PRICE_TAG, TRAINING_VARIABLE

DELETED = "Deleted"
"""Status shown for an endpoint that no longer exists."""


@dataclass(frozen=True)
class EndpointInfo:
    """One endpoint: its state, its model and its instances."""

    name: str
    status: str
    created: datetime
    config_name: str
    """Name of the endpoint configuration."""
    failure_reason: str
    """Empty unless the endpoint or its last update failed."""
    training: str
    """Name of the training whose model is served; empty if another tool created the model."""
    model_name: str
    variant: Json
    """Production variant of the endpoint configuration."""
    num_instances: int
    """Instances in service."""
    price_per_hour: float | None
    """Price of one instance, as given at deployment; None if it was not given."""

    @property
    def memory_mb(self) -> int | None:
        """Memory of a serverless endpoint, MB; None for instances."""
        serverless = self.variant.get("ServerlessConfig")
        return None if serverless is None else int(serverless["MemorySizeInMB"])

    @property
    def cost_per_hour(self) -> float | None:
        """Cost of all instances per hour; 0 if the endpoint is serverless or failed, None if it is unknown."""
        if self.memory_mb is not None or self.status == "Failed":
            return 0.0
        return None if self.price_per_hour is None else self.price_per_hour * self.num_instances


def parse_endpoint_info(endpoint: Json, config: Json, model: Json, tags: Sequence[Json]) -> EndpointInfo:
    """Returns the information in the descriptions of an endpoint, its configuration and its model, {} if deleted."""
    variant: Json = (config.get("ProductionVariants") or [{}])[0]
    running: Json = (endpoint.get("ProductionVariants") or [{}])[0]
    price = next((tag["Value"] for tag in tags if tag["Key"] == PRICE_TAG), None)
    return EndpointInfo(
        name=endpoint["EndpointName"],
        status=endpoint["EndpointStatus"],
        created=endpoint["CreationTime"],
        config_name=endpoint.get("EndpointConfigName", ""),
        failure_reason=endpoint.get("FailureReason", ""),
        training=model.get("PrimaryContainer", {}).get("Environment", {}).get(TRAINING_VARIABLE, ""),
        model_name=variant.get("ModelName", ""),
        variant=variant,
        num_instances=int(running.get("CurrentInstanceCount", 0)),
        price_per_hour=None if price is None else float(price),
    )
