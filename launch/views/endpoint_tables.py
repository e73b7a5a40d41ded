"""What people see of endpoints in a terminal."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import ClientError
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.backends import open_backend
from launch.backends.aws.errors import explain_failure
from launch.hosting.endpoint_state import GONE, Standing
from launch.spec.contract import Json
from launch.spec.requests.endpoint import TrainedModel
from launch.views.text import duration

STYLES = {"InService": "green", "Failed": "red", "Creating": "cyan", "Updating": "cyan", "Deleting": "yellow"}
TAIL_LINES = 20
"""Of an endpoint's log, where they are shown."""


def plan_table(cfg: DictConfig, model: TrainedModel) -> Table:
    """Returns what will be served and on what, before anything is sent."""
    table = Table(title=f"endpoint {cfg.name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("model", f"of training {model.name}")
    table.add_row("lies at", model.url)
    table.add_row("runs on", _planned_on(cfg))
    if cfg.autoscaling.max_count:
        each = f"{cfg.autoscaling.requests_per_minute:g} requests a minute for each"
        table.add_row("scaling", f"{cfg.autoscaling.min_count} to {cfg.autoscaling.max_count} instances, {each}")
    if cfg.data_capture.percent:
        table.add_row("captured", f"{cfg.data_capture.percent} % of the requests and answers")
    return table


def _planned_on(cfg: DictConfig) -> str:
    if not open_backend(cfg).billed:
        return "this machine"
    if cfg.serverless.memory_mb is not None:
        return f"AWS, serverless, {cfg.serverless.memory_mb} MB; costs by the request"
    price, count, most = cfg.instance.price_per_hour, cfg.instance.count, cfg.autoscaling.max_count or 0
    cost = "" if price is None else f"; {price * count:.2f} an hour"
    cost += f", at most {price * most:.2f}" if cost and most > count else ""
    return f"AWS, {count} x {cfg.instance.type}{cost}, until it is removed"


def runs_on(cfg: DictConfig, name: str, standing: Standing) -> str:
    """Returns what an endpoint runs on, in words; on this machine the address of its page."""
    if not open_backend(cfg).billed:
        return open_backend(cfg).endpoint_page(name) or "this machine"
    if "ServerlessConfig" in standing.variant:
        return f"serverless, {standing.variant['ServerlessConfig']['MemorySizeInMB']} MB"
    return f"{standing.count} x {standing.variant.get('InstanceType', '?')}"


def cost_an_hour(cfg: DictConfig, standing: Standing) -> str:
    """Returns what an endpoint costs an hour, in words."""
    if not open_backend(cfg).billed:
        return "nothing"
    if "ServerlessConfig" in standing.variant:
        return "by the request"
    return "unknown" if standing.cost_per_hour is None else f"{standing.cost_per_hour:.2f}"


def endpoints_table(cfg: DictConfig, found: list[tuple[Json, Standing]]) -> Table:
    """Returns a line for each endpoint: what it serves, on what, since when, and what it costs an hour."""
    table = Table(title="endpoints", title_justify="left")
    for column in ("name", "status", "model of", "runs on", "since", "time", "an hour"):
        table.add_column(column, justify="right" if column in ("time", "an hour") else "left", overflow="fold")
    for endpoint, standing in found:
        name, status, created = endpoint["EndpointName"], endpoint["EndpointStatus"], endpoint["CreationTime"]
        table.add_row(
            name,
            Text(status, style=STYLES.get(status, "")),
            standing.training or standing.model_name or "?",
            runs_on(cfg, name, standing),
            created.astimezone().strftime("%Y-%m-%d %H:%M"),
            duration((datetime.now(timezone.utc) - created).total_seconds()),
            cost_an_hour(cfg, standing) if status != "Failed" else "nothing",
        )
    return table


def total_line(cfg: DictConfig, found: list[tuple[Json, Standing]]) -> str:
    """Returns how many endpoints are there and what they cost an hour together."""
    charged = [standing for endpoint, standing in found if endpoint["EndpointStatus"] != "Failed"]
    if not open_backend(cfg).billed:
        return f"{len(charged)} running on this machine"
    known = [standing.cost_per_hour for standing in charged if standing.cost_per_hour is not None]
    unknown = len(charged) - len(known)
    line = f"{len(charged)} running, {sum(known):.2f} an hour"
    more = f", and {unknown} of unknown cost: deploy with instance.price_per_hour=NUMBER to have it added up"
    return line + (more if unknown else "")


def tail(cfg: DictConfig, name: str) -> list[str]:
    """Returns the last lines of an endpoint's log, or why they cannot be had."""
    try:
        return open_backend(cfg).endpoint_log(name).read()[-TAIL_LINES:]
    except ClientError as error:
        return [f"its log cannot be read: {error}"]


def say_in_service(cfg: DictConfig, name: str, out: Console) -> None:
    """Says that an endpoint answers, and what one can do with it."""
    out.print(f"\n{name} is in service", soft_wrap=True)
    if page := open_backend(cfg).endpoint_page(name):
        out.print(f"  its page:  {page}", soft_wrap=True)
    out.print(f"  ask it:    {open_backend(cfg).command_line('predict', name, 'photo.jpg')}", soft_wrap=True)
    out.print(f"  list all:  {open_backend(cfg).command_line('endpoints')}", soft_wrap=True)
    out.print(f"  remove it: {open_backend(cfg).command_line('undeploy', name)}", soft_wrap=True)


def say_failed(cfg: DictConfig, name: str, endpoint: Json | None, out: Console) -> None:
    """Shows the end of an endpoint's log, why it failed, and what to do."""
    for line in tail(cfg, name):
        out.print(f"  {line}", soft_wrap=True)
    status = GONE if endpoint is None else endpoint["EndpointStatus"]
    reason = explain_failure((endpoint or {}).get("FailureReason", "no reason is given"))
    out.print(f"endpoint {name} is {status}: {reason}", soft_wrap=True)
    if endpoint is not None and status != "InService":
        out.print(f"remove it: {open_backend(cfg).command_line('undeploy', name)}", soft_wrap=True)


def say_left(cfg: DictConfig, name: str, signal_name: str, out: Console) -> None:
    """Says that an endpoint goes on without whoever watched it."""
    out.print(f"{signal_name}: {name} goes on without you", soft_wrap=True)
    out.print(f"  look again: {open_backend(cfg).command_line('endpoints', name)}", soft_wrap=True)
    out.print(f"  remove it:  {open_backend(cfg).command_line('undeploy', name)}", soft_wrap=True)


def details(cfg: DictConfig, endpoint: Json, standing: Standing) -> Table:
    """Returns what is known of one endpoint."""
    name = endpoint["EndpointName"]
    table = Table("key", "value", title=f"endpoint {name}: {endpoint['EndpointStatus']}", title_justify="left")
    rows: dict[str, Any] = {
        "reason": explain_failure(endpoint["FailureReason"]) if "FailureReason" in endpoint else "",
        "model of": standing.training or standing.model_name,
        "runs on": runs_on(cfg, name, standing),
        "an hour": cost_an_hour(cfg, standing),
        "since": endpoint["CreationTime"].astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "configuration": endpoint.get("EndpointConfigName", ""),
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, Text(str(value)))
    return table
