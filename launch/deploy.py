"""Deploys a trained model as an endpoint, on this machine or on AWS, and waits until it is in service.

    python -m launch.deploy from_training=NAME                 a training, a trial, or the best trial of a sweep
    python -m launch.deploy from_training=NAME name=dogs       under another name
    python -m launch.deploy ... backend=sagemaker              on AWS, instance.type=ml.m5.large
    python -m launch.deploy ... backend=sagemaker serverless.memory_mb=4096
    python -m launch.deploy ... backend=sagemaker autoscaling.max_count=4 data_capture.percent=10
    python -m launch.deploy ... dry_run=true                   prints the exact requests, validated but not sent

Deploying to an existing name updates that endpoint without downtime. A training of this machine can be deployed on
AWS too: its model is uploaded. Ctrl-C deletes an unfinished endpoint on this machine; on AWS it only detaches. The
exit status is 0 if the endpoint is in service, 1 if it failed, 130 after Ctrl-C.
"""

from __future__ import annotations

from dogbreed.cli.command import run_cli
from dogbreed.errors import UserError
from launch.backends import open_backend
from launch.backends.aws.errors import api_errors
from launch.hosting.endpoint_state import find_endpoint
from launch.hosting.lifecycle import deploy, plan_deployment
from launch.hosting.model_source import find_model
from launch.runs.requests import check_owned
from launch.runs.submit import submit
from launch.spec.settings import SCHEMAS, compose
from launch.views.endpoint_tables import endpoint_plan
from launch.views.text import console


def main(argv: list[str]) -> int:
    """Deploys one model; returns 0, 1 if it is not in service, or 128 + the signal that was received."""
    cfg = compose("deploy", argv)
    if cfg.from_training is None:
        raise UserError("from_training is not set: type from_training=NAME; python -m launch.status lists trainings")
    out, backend, source = console(stderr=cfg.dry_run), open_backend(cfg), str(cfg.from_training)
    with api_errors(cfg):
        model = find_model(backend, source, out)
        cfg.name = str(cfg.name or (model.name if "/" in source else source))
        client = backend.client()
        if existing := find_endpoint(client, cfg.name):
            check_owned(client, "Endpoint", existing, cfg.name, "give another name=NAME")
    plan = plan_deployment(cfg, backend, model, existing)
    out.print(endpoint_plan(cfg, backend, plan.model))
    if plan.image_note:
        out.print(f"image: {plan.image_note}", soft_wrap=True)
    return submit(cfg, plan.requests, lambda client: deploy(client, plan, out), plan.upload)


if __name__ == "__main__":
    run_cli(main, __doc__, SCHEMAS["deploy"], "deploy")
