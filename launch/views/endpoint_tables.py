"""Endpoints in the terminal: plans, tables, outcomes and the next commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.backends import Backend
from launch.backends.aws.errors import explain_failure
from launch.spec.contract import Json
from launch.spec.endpoint_info import DELETED, EndpointInfo
from launch.spec.requests.endpoint import TrainedModel
from launch.views.tables import plan_table
from launch.views.text import duration

STYLES = {"InService": "green", "Failed": "red", "Creating": "cyan", "Updating": "cyan", "Deleting": "yellow"}
"""Colour of each status."""

TAIL_LINES = 20
"""Last lines of an endpoint's log that are shown."""


def endpoint_plan(cfg: DictConfig, backend: Backend, model: TrainedModel) -> Table:
    """Returns the model to deploy and the instances to run it on."""
    runs_on = _planned_instances(cfg) if backend.billed else "this machine"
    rows = [("training", model.name), ("model", model.url), ("runs on", runs_on)]
    if cfg.autoscaling.max_count:
        target = f"{cfg.autoscaling.requests_per_minute:g} requests per minute and instance"
        rows.append(("autoscaling", f"{cfg.autoscaling.min_count} to {cfg.autoscaling.max_count} instances, {target}"))
    if cfg.data_capture.percent:
        rows.append(("data capture", f"{cfg.data_capture.percent} % of the requests and responses"))
    return plan_table(f"endpoint {cfg.name}", rows)


def _planned_instances(cfg: DictConfig) -> str:
    if cfg.serverless.memory_mb is not None:
        return f"AWS, serverless, {cfg.serverless.memory_mb} MB; billed per request"
    price, count, max_count = cfg.instance.price_per_hour, cfg.instance.count, cfg.autoscaling.max_count or 0
    cost = "" if price is None else f"; {price * count:.2f} per hour"
    cost += f", at most {price * max_count:.2f}" if cost and max_count > count else ""
    return f"AWS, {count} x {cfg.instance.type}{cost}, until it is deleted"


def endpoints_table(backend: Backend, endpoints: Sequence[EndpointInfo]) -> Table:
    """Returns one row per endpoint."""
    table = Table(title="endpoints", title_justify="left")
    for column in ("name", "status", "training", "runs on", "created", "age", "cost per hour"):
        table.add_column(column, justify="right" if column in ("age", "cost per hour") else "left", overflow="fold")
    for endpoint in endpoints:
        table.add_row(
            endpoint.name,
            Text(endpoint.status, style=STYLES.get(endpoint.status, "")),
            endpoint.training or endpoint.model_name or "?",
            _instances(backend, endpoint),
            endpoint.created.astimezone().strftime("%Y-%m-%d %H:%M"),
            duration((datetime.now(timezone.utc) - endpoint.created).total_seconds()),
            _cost(backend, endpoint),
        )
    return table


def _instances(backend: Backend, endpoint: EndpointInfo) -> str:
    if not backend.billed:
        return backend.endpoint_page(endpoint.name) or "this machine"
    if endpoint.memory_mb is not None:
        return f"serverless, {endpoint.memory_mb} MB"
    return f"{endpoint.num_instances} x {endpoint.variant.get('InstanceType', '?')}"


def _cost(backend: Backend, endpoint: EndpointInfo) -> str:
    if not backend.billed or endpoint.status == "Failed":
        return "0"
    if endpoint.memory_mb is not None:
        return "per request"
    return "unknown" if endpoint.cost_per_hour is None else f"{endpoint.cost_per_hour:.2f}"


def total_line(backend: Backend, endpoints: Sequence[EndpointInfo]) -> str:
    """Returns how many endpoints are running and what they cost per hour together."""
    running = [endpoint for endpoint in endpoints if endpoint.status != "Failed"]
    if not backend.billed:
        return f"{len(running)} running on this machine"
    costs = [endpoint.cost_per_hour for endpoint in running if endpoint.cost_per_hour is not None]
    line = f"{len(running)} running, {sum(costs):.2f} per hour"
    unknown = len(running) - len(costs)
    hint = f", and {unknown} of unknown cost: deploy with instance.price_per_hour=NUMBER to include it"
    return line + (hint if unknown else "")


def details_table(backend: Backend, endpoint: EndpointInfo) -> Table:
    """Returns the details of one endpoint."""
    table = Table("key", "value", title=f"endpoint {endpoint.name}: {endpoint.status}", title_justify="left")
    rows: dict[str, Any] = {
        "reason": explain_failure(endpoint.failure_reason) if endpoint.failure_reason else "",
        "training": endpoint.training or endpoint.model_name,
        "runs on": _instances(backend, endpoint),
        "cost per hour": _cost(backend, endpoint),
        "created": endpoint.created.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "configuration": endpoint.config_name,
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, Text(str(value)))
    return table


def print_log_tail(backend: Backend, name: str, out: Console) -> None:
    """Prints the last lines of an endpoint's log, or why it cannot be read."""
    try:
        lines = backend.endpoint_log(name).tail(TAIL_LINES)
    except (ClientError, BotoCoreError) as error:
        lines = [f"the log cannot be read: {error}"]
    for line in lines:
        out.print(f"  {line}", soft_wrap=True)


def print_in_service(backend: Backend, name: str, out: Console) -> None:
    """Prints that an endpoint is in service and the commands to use it."""
    out.print(f"\n{name} is in service", soft_wrap=True)
    if page := backend.endpoint_page(name):
        out.print(f"  web page: {page}", soft_wrap=True)
    out.print(f"  predict:  {backend.command_line('predict', name, 'photo.jpg')}", soft_wrap=True)
    out.print(f"  list all: {backend.command_line('endpoints')}", soft_wrap=True)
    out.print(f"  delete:   {backend.command_line('undeploy', name)}", soft_wrap=True)


def print_failure(backend: Backend, name: str, endpoint: Json | None, out: Console) -> None:
    """Prints the end of an endpoint's log, the reason of the failure and the next command."""
    print_log_tail(backend, name, out)
    status = DELETED if endpoint is None else endpoint["EndpointStatus"]
    reason = explain_failure((endpoint or {}).get("FailureReason", "no reason is given"))
    out.print(f"endpoint {name} is {status}: {reason}", soft_wrap=True)
    if endpoint is not None and status != "InService":
        out.print(f"delete it: {backend.command_line('undeploy', name)}", soft_wrap=True)


def print_detached(backend: Backend, name: str, signal_name: str, out: Console) -> None:
    """Prints that the deployment continues and how to see or delete the endpoint."""
    out.print(f"{signal_name}: detached; the deployment of {name} continues", soft_wrap=True)
    out.print(f"  see it:    {backend.command_line('endpoints', name)}", soft_wrap=True)
    out.print(f"  delete it: {backend.command_line('undeploy', name)}", soft_wrap=True)
