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

from collections.abc import Mapping
from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.hosting.endpoint_state import EndpointWatch, describe_endpoint, forget, remove_endpoint
from launch.hosting.model_source import find_trained
from launch.runs.polling import Interrupted, follow
from launch.runs.submit import submit
from launch.spec.contract import Json
from launch.spec.limits import SERVICES
from launch.spec.requests.endpoint import PRICE_TAG, deploy_requests, is_made_for
from launch.spec.settings import compose
from launch.views.endpoint_tables import plan_table, say_failed, say_in_service, say_left
from launch.views.text import console

NAMED_BY_CONTENT = ("CreateModel", "CreateEndpointConfig")


def main(words: list[str]) -> int:
    """Deploys one model; returns 0, 1 where it did not come into service, or 128 + the signal that came."""
    cfg = compose("deploy", words)
    if OmegaConf.is_missing(cfg, "from_training"):
        raise UserError("from_training is not set: type from_training=NAME; python -m launch.status lists trainings")
    out = console(stderr=cfg.dry_run)
    wanted = str(cfg.from_training)
    with api_errors(cfg):
        client = open_backend(cfg).client()
        model = find_trained(client, wanted, cfg, out)
        cfg.name = str(cfg.name or (model.name if "/" in wanted else wanted))
        standing = describe_endpoint(client, cfg.name)
    target, model, upload = open_backend(cfg).prepare_endpoint(cfg, model)
    failed = standing is not None and standing["EndpointStatus"] == "Failed"
    requests = deploy_requests(cfg, model, target, update=standing is not None and not failed)
    if standing is not None:
        _check_standing(standing, requests, cfg)
    out.print(plan_table(cfg, model))
    return submit(cfg, requests, lambda client: _run(client, cfg, requests, standing, out), upload)


def _check_standing(standing: Json, requests: Mapping[str, Json], cfg: DictConfig) -> None:
    """Checks that the endpoint of this name may be changed.

    Raises:
        UserError: it was made by something else, or it is just changing to something else.
    """
    name, config, status = cfg.name, standing["EndpointConfigName"], standing["EndpointStatus"]
    if not is_made_for(config, name):
        raise UserError(f"the name {name} is taken by an endpoint that was not made here: give another, name=NAME")
    changes = status not in ("InService", "Failed")
    if changes and config != requests["CreateEndpointConfig"]["EndpointConfigName"]:
        remove = open_backend(cfg).command_line("undeploy", name)
        raise UserError(f"endpoint {name} is {status} just now: wait for the end of that, or remove it with {remove}")


def _run(client: Any, cfg: DictConfig, requests: Mapping[str, Json], standing: Json | None, out: Console) -> int:
    """Sends the requests, waits for the endpoint, and tells what came of it."""
    name, config = str(cfg.name), requests["CreateEndpointConfig"]["EndpointConfigName"]
    before = None if standing is None else standing["EndpointConfigName"]
    creates = "CreateEndpoint" in requests
    if creates and standing is not None:
        out.print(f"endpoint {name} had failed; it is removed and made anew", soft_wrap=True)
        if left := remove_endpoint(client, cfg, standing, out):
            return 128 + left
    watch = EndpointWatch(client, name, out)
    detach = open_backend(cfg).detaches or not creates
    with Interrupted() as interrupted:  # before the requests, so that none is left half made
        if before == config and not creates:
            out.print(f"endpoint {name} has this very model and these settings already", soft_wrap=True)
        else:
            _send(client, requests, name, config)
        if standing is not None and not creates and cfg.instance.price_per_hour is not None:
            price = {"Key": PRICE_TAG, "Value": f"{cfg.instance.price_per_hour:g}"}
            client.add_tags(ResourceArn=standing["EndpointArn"], Tags=[price])
        left = follow(watch, out, open_backend(cfg).poll_s, detach=detach, interrupted=interrupted)
    if left and detach and not watch.ended:
        say_left(cfg, name, left.name, out)
        return 128 + left
    if left and watch.endpoint is None:  # removed because Ctrl-C came
        forget(client, name, config)
        out.print(f"endpoint {name} is removed; nothing of it is left")
        return 128 + left
    endpoint = watch.endpoint
    if endpoint is None or (endpoint["EndpointStatus"], endpoint["EndpointConfigName"]) != ("InService", config):
        say_failed(cfg, name, endpoint, out)
        if endpoint is not None and endpoint["EndpointConfigName"] != config:
            forget(client, name, config)
        return 1
    if before not in (None, config):
        forget(client, name, str(before))
    for operation, request in requests.items():
        if operation in SERVICES:
            _call(open_backend(cfg).scaling_client(), operation, request)
    say_in_service(cfg, name, out)
    return 0


def _send(client: Any, requests: Mapping[str, Json], name: str, config: str) -> None:
    """Sends what makes the endpoint; what is named by its content may be there from an earlier time."""
    for operation, request in requests.items():
        if operation in SERVICES:  # not before it is in service
            continue
        try:
            _call(client, operation, request)
        except ClientError as error:
            if operation not in NAMED_BY_CONTENT:
                forget(client, name, config)
            elif "already existing" in error.response["Error"]["Message"]:
                continue
            raise


def _call(client: Any, operation: str, request: Json) -> None:
    getattr(client, xform_name(operation))(**request)


if __name__ == "__main__":
    run_cli(main, __doc__)
