"""A trained model to the requests that make an endpoint of it, in the order in which they are sent. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import UserError
from launch.spec.contract import Json
from launch.spec.requests.training import tags

VARIANT = "AllTraffic"
"""The one variant of every endpoint, by the SageMaker SDK's own name."""
TRAINING = "DOGBREED_TRAINING"
"""Variable of the model's server that says which training it comes from."""
PRICE_TAG = "dogbreed:price_per_hour"
"""Tag of an endpoint: what one of its instances costs an hour."""
PROGRAM = "inference.py"
SCALING = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
MAX_NAME = 63


@dataclass(frozen=True)
class TrainedModel:
    """The model that a training left."""

    name: str
    """Of the training."""
    url: str
    """`s3://.../model.tar.gz`, or a folder that ends in `/`."""
    version: str = ""
    """Tells it from an earlier training of the same name."""
    path: Path | None = None
    """Where it lies on this machine, if it does."""


@dataclass(frozen=True)
class EndpointTarget:
    """Where an endpoint runs: what its requests must name beside the config."""

    role_arn: str
    image: str
    output_path: str
    """`s3://BUCKET/PREFIX` for what is captured."""
    region: str = "local"
    managed: bool = True
    """Whether AWS runs the endpoint: only then autoscaling and data capture are available."""


def deploy_requests(
    cfg: DictConfig, model: TrainedModel, target: EndpointTarget, update: bool = False
) -> dict[str, Json]:
    """Returns operation to request, in order: what makes, or updates, the endpoint `cfg.name`.

    The model and the endpoint configuration are named by their content: the same again has the same names. No two
    configurations share a model, so whoever removes one may remove both.

    Args:
        cfg: of deploy.yaml, its name settled.
        model: what is served.
        target: where.
        update: the endpoint is there already.

    Raises:
        UserError: settings that do not go together.
    """
    _check(cfg, target)
    name = str(cfg.name)
    made, variant, more = _model(cfg, model, target), _variant(cfg), _config(cfg, target)
    own_name = content_name(name, made, variant, more, model.version)
    variants = [{"VariantName": VARIANT, "ModelName": own_name, "InitialVariantWeight": 1.0, **variant}]
    endpoint = {"EndpointName": name, "EndpointConfigName": own_name}
    requests = {
        "CreateModel": {"ModelName": own_name, **made},
        "CreateEndpointConfig": {"EndpointConfigName": own_name, "ProductionVariants": variants, **more},
    }
    if update:  # one that has grown by itself stays as large as it is
        keep = {"RetainAllVariantProperties": True} if cfg.autoscaling.max_count else {}
        requests["UpdateEndpoint"] = endpoint | keep
    else:
        price = cfg.instance.price_per_hour
        own = tags(cfg) + ([{"Key": PRICE_TAG, "Value": f"{price:g}"}] if price is not None else [])
        requests["CreateEndpoint"] = endpoint | ({"Tags": own} if own else {})
    return requests | (_scaling(cfg) if cfg.autoscaling.max_count else {})


def content_name(stem: str, *content: Any) -> str:
    """Returns `STEM-1a2b3c4d`, the same for the same content, within SageMaker's length of names."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return f"{stem[: MAX_NAME - 9].rstrip('-')}-{digest}"


def is_made_for(name: str, endpoint: str) -> bool:
    """Returns whether a model or configuration of that name was made for the endpoint by `deploy_requests`."""
    stem, _, digest = name.rpartition("-")
    return stem == endpoint[: MAX_NAME - 9].rstrip("-") and len(digest) == 8


def scaling_target(name: str) -> Json:
    """Returns what names the instances of endpoint `name` in requests to Application Auto Scaling."""
    return {**SCALING, "ResourceId": f"endpoint/{name}/variant/{VARIANT}"}


def _check(cfg: DictConfig, target: EndpointTarget) -> None:
    serverless = cfg.serverless.memory_mb is not None
    for key in ("autoscaling.max_count", "data_capture.percent"):
        if not target.managed and OmegaConf.select(cfg, key):
            raise UserError(f"{key} is done by AWS, not on this machine: leave it out, or add backend=sagemaker")
    if cfg.autoscaling.max_count and serverless:
        raise UserError("serverless.memory_mb and autoscaling.max_count: a serverless endpoint has no instances to add")
    if serverless and cfg.instance.price_per_hour is not None:
        raise UserError("instance.price_per_hour: a serverless endpoint costs by the request, nothing by the hour")
    if cfg.autoscaling.max_count and cfg.autoscaling.max_count < cfg.autoscaling.min_count:
        raise UserError(f"autoscaling.max_count={cfg.autoscaling.max_count} is less than autoscaling.min_count")


def _model(cfg: DictConfig, model: TrainedModel, target: EndpointTarget) -> Json:
    environment = {
        "DOGBREED_ANSWER": str(cfg.answer),
        "DOGBREED_TOP_K": str(cfg.top_k),
        TRAINING: model.name,
        "SAGEMAKER_PROGRAM": PROGRAM,
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": target.region,
        **{str(key): str(value) for key, value in cfg.environment.items()},
    }
    source: Json = {"ModelDataUrl": model.url}
    if model.url.endswith("/"):
        place = {"S3Uri": model.url, "S3DataType": "S3Prefix", "CompressionType": "None"}
        source = {"ModelDataSource": {"S3DataSource": place}}
    request: Json = {
        "PrimaryContainer": {"Image": target.image, **source, "Environment": environment},
        "ExecutionRoleArn": target.role_arn,
    }
    backend = cfg.backend
    if backend.get("subnets") or backend.get("security_groups"):
        request["VpcConfig"] = {
            "Subnets": list(backend.subnets),
            "SecurityGroupIds": list(backend.security_groups),
        }
    if backend.get("network_isolation"):
        request["EnableNetworkIsolation"] = True
    return request | ({"Tags": tags(cfg)} if backend.tags else {})


def _variant(cfg: DictConfig) -> Json:
    """Returns what the endpoint runs on."""
    if cfg.serverless.memory_mb is None:
        return {"InstanceType": str(cfg.instance.type), "InitialInstanceCount": int(cfg.instance.count)}
    memory, most = int(cfg.serverless.memory_mb), int(cfg.serverless.max_concurrency)
    return {"ServerlessConfig": {"MemorySizeInMB": memory, "MaxConcurrency": most}}


def _config(cfg: DictConfig, target: EndpointTarget) -> Json:
    """Returns the endpoint configuration but for its name and variant."""
    request: Json = {}
    if cfg.data_capture.percent:
        request["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": int(cfg.data_capture.percent),
            "DestinationS3Uri": str(cfg.data_capture.url or f"{target.output_path}/captured"),
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        }
    if cfg.backend.get("volume_kms_key"):
        request["KmsKeyId"] = str(cfg.backend.volume_kms_key)
    return request | ({"Tags": tags(cfg)} if cfg.backend.tags else {})


def _scaling(cfg: DictConfig) -> dict[str, Json]:
    scaling, target = cfg.autoscaling, scaling_target(str(cfg.name))
    return {
        "RegisterScalableTarget": {
            **target,
            "MinCapacity": int(scaling.min_count),
            "MaxCapacity": int(scaling.max_count),
        },
        "PutScalingPolicy": {
            **target,
            "PolicyName": f"{cfg.name}-requests",
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": float(scaling.requests_per_minute),
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance",
                },
            },
        },
    }
