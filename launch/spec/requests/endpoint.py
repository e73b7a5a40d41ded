"""Builds the requests that create or update an endpoint, in the order in which they are sent. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import UserError
from launch.spec.contract import Json
from launch.spec.requests.training import Target, tags

VARIANT = "AllTraffic"
"""Name of the only production variant, as in the SageMaker SDK."""

TRAINING_VARIABLE = "DOGBREED_TRAINING"
"""Environment variable of the model that names the training it comes from."""

PRICE_TAG = "dogbreed:price_per_hour"
"""Tag of an endpoint that holds the hourly price of one instance."""

MAX_NAME = 63
"""SageMaker's limit on the length of names."""

_PROGRAM = "inference.py"


@dataclass(frozen=True)
class TrainedModel:
    """The model of a training."""

    name: str
    """Name of the training."""
    url: str
    """`s3://.../model.tar.gz`, or a folder that ends in `/`."""
    version: str = ""
    """Distinguishes it from an earlier training of the same name."""
    path: Path | None = None
    """Local archive or folder of the model; None if it is only in S3."""


def endpoint_requests(cfg: DictConfig, model: TrainedModel, target: Target, update: bool = False) -> dict[str, Json]:
    """Returns operation to request, in order, to create or update the endpoint `cfg.name`.

    The model and the endpoint configuration are named by a hash of their content, so deploying the same model again
    is idempotent. Configurations never share a model, so both can be deleted together. All are tagged as the
    launcher's.

    Raises:
        UserError: settings contradict each other.
    """
    _check(cfg, target)
    name = str(cfg.name)
    create_model, variant, config = _model(cfg, model, target), _variant(cfg), _config(cfg, target)
    own_name = content_name(name, create_model, variant, config, model.version)
    variants = [{"VariantName": VARIANT, "ModelName": own_name, "InitialVariantWeight": 1.0, **variant}]
    endpoint = {"EndpointName": name, "EndpointConfigName": own_name}
    own_tags = {"Tags": tags(cfg, name)}
    requests = {
        "CreateModel": {"ModelName": own_name, **create_model, **own_tags},
        "CreateEndpointConfig": {"EndpointConfigName": own_name, "ProductionVariants": variants, **config, **own_tags},
    }
    if update:  # a scaled-out endpoint keeps its number of instances
        retained = {"RetainAllVariantProperties": True} if cfg.autoscaling.max_count else {}
        requests["UpdateEndpoint"] = endpoint | retained
    else:
        requests["CreateEndpoint"] = endpoint | {"Tags": tags(cfg, name) + price_tags(cfg)}
    return requests | (_scaling(cfg) if cfg.autoscaling.max_count else {})


def price_tags(cfg: DictConfig) -> list[Json]:
    """Returns the tag that records the hourly price of one instance; none if no price is given."""
    price = cfg.instance.price_per_hour
    return [] if price is None else [{"Key": PRICE_TAG, "Value": f"{price:g}"}]


def content_name(stem: str, *content: Any) -> str:
    """Returns `STEM-1a2b3c4d` with a hash of `content`, and of the whole stem if SageMaker's limit cuts it."""
    short = stem[: MAX_NAME - 9].rstrip("-")
    hashed = content if short == stem else (stem, *content)
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:8]
    return f"{short}-{digest}"


def scaling_target(name: str) -> Json:
    """Returns the fields that identify endpoint `name` in requests to Application Auto Scaling."""
    return {
        "ServiceNamespace": "sagemaker",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
    }


def _check(cfg: DictConfig, target: Target) -> None:
    serverless = cfg.serverless.memory_mb is not None
    for key in ("autoscaling.max_count", "data_capture.percent"):
        if target.is_local and OmegaConf.select(cfg, key):
            raise UserError(f"{key} is only available on AWS: omit it, or add backend=sagemaker")
    if cfg.autoscaling.max_count and serverless:
        raise UserError("serverless.memory_mb and autoscaling.max_count: a serverless endpoint has no instances to add")
    if serverless and cfg.instance.price_per_hour is not None:
        raise UserError("instance.price_per_hour: a serverless endpoint is billed per request, not per hour")
    if cfg.autoscaling.max_count and cfg.autoscaling.max_count < cfg.autoscaling.min_count:
        raise UserError(f"autoscaling.max_count={cfg.autoscaling.max_count} is less than autoscaling.min_count")


def _model(cfg: DictConfig, model: TrainedModel, target: Target) -> Json:
    environment = {
        "DOGBREED_ANSWER": str(cfg.answer),
        "DOGBREED_TOP_K": str(cfg.top_k),
        TRAINING_VARIABLE: model.name,
        "SAGEMAKER_PROGRAM": _PROGRAM,
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": target.region,
        **{str(key): str(value) for key, value in cfg.environment.items()},
    }
    source: Json = {"ModelDataUrl": model.url}
    if model.url.endswith("/"):
        prefix = {"S3Uri": model.url, "S3DataType": "S3Prefix", "CompressionType": "None"}
        source = {"ModelDataSource": {"S3DataSource": prefix}}
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
    return request


def _variant(cfg: DictConfig) -> Json:
    """Returns the instances or the serverless capacity of the production variant."""
    if cfg.serverless.memory_mb is None:
        return {"InstanceType": str(cfg.instance.type), "InitialInstanceCount": int(cfg.instance.count)}
    return {
        "ServerlessConfig": {
            "MemorySizeInMB": int(cfg.serverless.memory_mb),
            "MaxConcurrency": int(cfg.serverless.max_concurrency),
        }
    }


def _config(cfg: DictConfig, target: Target) -> Json:
    """Returns the endpoint configuration without its name and variants."""
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
    return request


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
