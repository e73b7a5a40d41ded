"""Makes an endpoint of a trained model, on this machine or at AWS, and waits until it answers.

    python -m launch.deploy from_training=NAME                 a training, a trial, or the best trial of a sweep
    python -m launch.deploy from_training=NAME name=dogs       under a name of its own
    python -m launch.deploy ... backend=sagemaker              at AWS, instance.type=ml.m5.large
    python -m launch.deploy ... backend=sagemaker serverless.memory_mb=4096
    python -m launch.deploy ... backend=sagemaker autoscaling.max_count=4 data_capture.percent=10
    python -m launch.deploy ... dry_run=true                   the exact requests, checked, not sent

The same name again changes the endpoint to the new model, without a gap. A training of this machine can go to AWS too:
its model is uploaded. Ctrl-C on this machine removes what is half made; at AWS it goes on and can be looked at again.
The exit status is 0 where the endpoint is in service, 1 where it failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from dogbreed.config import compose, run_cli
from dogbreed.errors import UserError
from launch.client import aws_client, make_client
from launch.endpoint_request import PRICE_TAG, TrainedModel, deploy_requests, is_made_for
from launch.errors import api_errors, explain_failure
from launch.finish import command
from launch.follow import POLL_S, follow
from launch.host_site import find_host
from launch.limits import SERVICES
from launch.logs import open_endpoint_log
from launch.settings import check_settings
from launch.show import console
from launch.standing import EndpointWatch, Json, describe_endpoint, forget
from launch.submit import submit
from launch.trained import find_trained

TAIL_LINES = 20
"""Of an endpoint's log, shown where it failed."""


def main(words: list[str]) -> int:
    """Deploys one model; returns 0, 1 where it did not come into service, or 128 + the signal that came."""
    cfg = compose("deploy", words)
    check_settings(cfg)
    if OmegaConf.is_missing(cfg, "from_training"):
        raise UserError("from_training is not set: type from_training=NAME; python -m launch.status lists trainings")
    notes = Console(stderr=True, highlight=False) if cfg.dry_run else console()
    with api_errors(cfg):
        client = make_client(cfg.backend)
        model = find_trained(client, str(cfg.from_training), cfg, notes)
        cfg.name = str(cfg.name or (model.name if "/" in str(cfg.from_training) else cfg.from_training))
        standing = describe_endpoint(client, cfg.name)
    host, model, upload = find_host(cfg, model)
    update = standing is not None and standing["EndpointStatus"] != "Failed"
    requests = deploy_requests(cfg, model, host, update)
    if update:
        _check_standing(standing, requests, cfg)
    notes.print(_plan_table(cfg, model))
    return submit(cfg, requests, lambda client: _run(client, cfg, requests, standing, notes), upload)


def _check_standing(standing: Json | None, requests: Mapping[str, Json], cfg: DictConfig) -> None:
    """Checks that the endpoint of this name may be changed.

    Raises:
        UserError: it was made by something else, or it is just changing to something else.
    """
    assert standing is not None
    name, config, status = cfg.name, standing["EndpointConfigName"], standing["EndpointStatus"]
    if not is_made_for(config, name):
        raise UserError(f"the name {name} is taken by an endpoint that was not made here: give another, name=NAME")
    if status != "InService" and config != requests["CreateEndpointConfig"]["EndpointConfigName"]:
        remove = shlex.join(command(cfg, "undeploy", name))
        raise UserError(f"endpoint {name} is {status} just now: wait for its end, or remove it with {remove}")


def _plan_table(cfg: DictConfig, model: TrainedModel) -> Table:
    table = Table(title=f"endpoint {cfg.name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("model", f"of training {model.name}, {model.url}")
    table.add_row("runs on", _where(cfg))
    if cfg.autoscaling.max_count:
        each = f"{cfg.autoscaling.requests_per_minute:g} requests a minute each"
        table.add_row("scaling", f"{cfg.autoscaling.min_count} to {cfg.autoscaling.max_count} instances, {each}")
    if cfg.data_capture.percent:
        table.add_row("captured", f"{cfg.data_capture.percent} % of the requests and answers")
    return table


def _where(cfg: DictConfig) -> str:
    if cfg.backend.name == "local":
        return "this machine"
    if cfg.serverless.memory_mb is not None:
        return f"AWS, serverless, {cfg.serverless.memory_mb} MB; costs by the request"
    price, most = cfg.instance.price_per_hour, max(cfg.instance.count, cfg.autoscaling.max_count or 0)
    cost = "" if price is None else f"; {price * cfg.instance.count:.2f} an hour"
    cost += f", at most {price * most:.2f}" if cost and most > cfg.instance.count else ""
    return f"AWS, {cfg.instance.count} x {cfg.instance.type}{cost} until it is removed"


def _run(client: Any, cfg: DictConfig, requests: Mapping[str, Json], standing: Json | None, out: Console) -> int:
    """Sends the requests, waits for the endpoint, and tells what came of it."""
    name, wanted = str(cfg.name), requests["CreateEndpointConfig"]["EndpointConfigName"]
    before = None if standing is None else standing["EndpointConfigName"]
    if standing is not None and standing["EndpointStatus"] == "Failed":
        out.print(f"endpoint {name} had failed; it is made anew", soft_wrap=True)
        remove(client, cfg, name, before, out)
    if before == wanted and "UpdateEndpoint" in requests:
        out.print(f"endpoint {name} has this very model and these settings", soft_wrap=True)
    else:
        _send(client, requests, name, wanted)
    price = cfg.instance.price_per_hour
    if "UpdateEndpoint" in requests and price is not None and standing is not None:
        client.add_tags(ResourceArn=standing["EndpointArn"], Tags=[{"Key": PRICE_TAG, "Value": f"{price:g}"}])
    creates, at_aws = "CreateEndpoint" in requests, cfg.backend.name != "local"
    watch = EndpointWatch(client, name, out)
    left = follow(watch, out, POLL_S[cfg.backend.name], detach=at_aws or not creates)
    if left and not (watch.ended and watch.endpoint):
        if watch.endpoint is None:  # removed at our request
            forget(client, name, wanted)
        else:
            _say_detached(cfg, left.name, out)
        return 128 + left
    if watch.endpoint is None or watch.endpoint["EndpointStatus"] != "InService" or watch.endpoint["EndpointConfigName"] != wanted:
        return _say_failed(cfg, watch.endpoint, out)
    if before not in (None, wanted) and "UpdateEndpoint" in requests:
        forget(client, name, str(before))
    for operation, request in requests.items():
        if operation in SERVICES:
            _call(aws_client(SERVICES[operation], cfg.backend), operation, request)
    _say_in_service(cfg, out)
    return 0


def _send(client: Any, requests: Mapping[str, Json], name: str, config: str) -> None:
    """Sends what makes the endpoint; what is named by its content may be there from an earlier time."""
    for operation, request in requests.items():
        if operation in SERVICES:  # when it is in service
            continue
        try:
            _call(client, operation, request)
        except ClientError as error:
            there = "already existing" in error.response["Error"]["Message"]
            if operation in ("CreateModel", "CreateEndpointConfig") and there:
                continue
            if operation not in ("CreateModel", "CreateEndpointConfig"):
                forget(client, name, config)
            raise


def _call(client: Any, operation: str, request: Json) -> None:
    getattr(client, xform_name(operation))(**request)


def remove(client: Any, cfg: DictConfig, name: str, config: str | None, out: Console) -> Callable[[], None] | None:
    """Deletes an endpoint and, when it is gone, what was made for it alone."""
    raise NotImplementedError


def _say_in_service(cfg: DictConfig, out: Console) -> None:
    name = str(cfg.name)
    out.print(f"\n{name} is in service", soft_wrap=True)
    if cfg.backend.name == "local":
        from launch.local.endpoints import page_url

        out.print(f"  its page:  {page_url(Path(cfg.backend.root), name)}", soft_wrap=True)
    out.print(f"  ask it:    {shlex.join(command(cfg, 'predict', name, 'photo.jpg'))}", soft_wrap=True)
    out.print(f"  list all:  {shlex.join(command(cfg, 'endpoints'))}", soft_wrap=True)
    out.print(f"  remove it: {shlex.join(command(cfg, 'undeploy', name))}", soft_wrap=True)


def _say_failed(cfg: DictConfig, endpoint: Json | None, out: Console) -> int:
    """Shows the end of the endpoint's log and why it failed; returns 1."""
    name = str(cfg.name)
    try:
        lines = open_endpoint_log(cfg.backend, name).read()[-TAIL_LINES:]
    except ClientError as error:
        lines = [f"its log can not be read: {error}"]
    for line in lines:
        out.print(f"  {line}", soft_wrap=True, markup=False)
    status = "gone" if endpoint is None else endpoint["EndpointStatus"]
    reason = explain_failure((endpoint or {}).get("FailureReason", "it says no reason"))
    out.print(f"endpoint {name} is {status}: {reason}", soft_wrap=True, markup=False)
    if status != "InService":
        out.print(f"remove it: {shlex.join(command(cfg, 'undeploy', name))}", soft_wrap=True)
    return 1


def _say_detached(cfg: DictConfig, signal_name: str, out: Console) -> None:
    name = str(cfg.name)
    out.print(f"{signal_name}: {name} goes on without you", soft_wrap=True)
    out.print(f"  look again: {shlex.join(command(cfg, 'endpoints', name))}", soft_wrap=True)
    out.print(f"  remove it:  {shlex.join(command(cfg, 'undeploy', name))}", soft_wrap=True)


if __name__ == "__main__":
    run_cli(main, __doc__)
