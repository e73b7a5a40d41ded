"""The container contract of a training job on this machine: `/opt/ml` as a folder, and the `SM_*` variables.

What SageMaker and its training toolkit put at fixed places of a container lies under `<job>/ml` here;
`SAGEMAKER_BASE_DIR` names it, as the toolkit itself allows.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from dogbreed.system import cpu as cores
from launch.local.job_store import with_launch_on_path, write_json

HOST = "algo-1"
LOCAL_BUCKET = "s3://local"
"""The address of the root folder in requests; `s3://local/NAME` is the folder NAME in it."""

_RESERVED = ("sagemaker_", "_tuning_objective_metric")
_STALE = ("SM_", "SAGEMAKER_", "TRAINING_JOB_")

Json = dict[str, Any]


def local_path(uri: str, root: Path) -> Path | None:
    """Returns the path that an `s3://local/...` address stands for, or None where it lies outside the root folder."""
    if uri != LOCAL_BUCKET and not uri.startswith(f"{LOCAL_BUCKET}/"):
        return None
    path = (root / uri[len(LOCAL_BUCKET) :].lstrip("/")).resolve()
    return path if path.is_relative_to(root.resolve()) else None


def prepare_ml(folder: Path, request: Json, root: Path) -> Path:
    """Makes `<folder>/ml` as a container would find `/opt/ml` and returns it."""
    ml = folder / "ml"
    for name in ("input/config", "input/data", "model", "checkpoints", "output/data"):
        (ml / name).mkdir(parents=True, exist_ok=True)
    config = ml / "input" / "config"
    write_json(config / "hyperparameters.json", request.get("HyperParameters", {}))
    write_json(config / "resourceconfig.json", _resource_config(request))
    write_json(config / "inputdataconfig.json", _input_data_config(request))
    for channel in request.get("InputDataConfig", []):
        target = local_path(channel["DataSource"]["S3DataSource"]["S3Uri"], root)
        if target is not None:
            (ml / "input" / "data" / channel["ChannelName"]).symlink_to(target)
    return ml


def job_environment(ml: Path, request: Json, arn: str, parallel: int) -> dict[str, str]:
    """Returns the whole environment of the training process.

    Args:
        ml: the job's `/opt/ml`.
        request: the CreateTrainingJob request.
        arn: the job's ARN.
        parallel: how many jobs share this machine; its processors are divided among them.
    """
    cpus = max(1, cores.count() // parallel)
    inherited = with_launch_on_path({name: value for name, value in os.environ.items() if not name.startswith(_STALE)})
    inherited.setdefault("OMP_NUM_THREADS", str(cpus))
    contract = _contract(ml, request, cpus)
    variables = {f"SM_{name.upper()}": _text(value) for name, value in contract.items()}
    for name, value in contract["hps"].items():
        variables[f"SM_HP_{name.upper()}"] = _text(value)
    for name, path in contract["channel_input_dirs"].items():
        variables[f"SM_CHANNEL_{name.upper()}"] = path
    return {
        **inherited,
        **variables,
        "SM_TRAINING_ENV": json.dumps(contract),
        "SAGEMAKER_BASE_DIR": str(ml),
        "TRAINING_JOB_NAME": request["TrainingJobName"],
        "TRAINING_JOB_ARN": arn,
        "PYTHONUNBUFFERED": "1",
        **request.get("Environment", {}),
    }


def _contract(ml: Path, request: Json, cpus: int) -> Json:
    """Returns the toolkit's description of the training environment, which it spreads over the `SM_*` variables."""
    resources = _resource_config(request)
    channels = _input_data_config(request)
    hyperparameters = {
        name: _decoded(value)
        for name, value in request.get("HyperParameters", {}).items()
        if not name.startswith(_RESERVED)
    }
    return {
        "channels": sorted(channels),
        "channel_input_dirs": {name: str(ml / "input" / "data" / name) for name in channels},
        "current_host": HOST,
        "current_instance_type": resources["current_instance_type"],
        "hosts": resources["hosts"],
        "hps": hyperparameters,
        "input_config_dir": str(ml / "input" / "config"),
        "input_data_config": channels,
        "input_dir": str(ml / "input"),
        "job_name": request["TrainingJobName"],
        "model_dir": str(ml / "model"),
        "num_cpus": cpus,
        "num_gpus": _count_gpus(),
        "output_data_dir": str(ml / "output" / "data"),
        "output_dir": str(ml / "output"),
        "resource_config": resources,
    }


def _resource_config(request: Json) -> Json:
    instance_type = request.get("ResourceConfig", {}).get("InstanceType", "local")
    return {
        "current_host": HOST,
        "current_instance_type": instance_type,
        "current_group_name": "homogeneousCluster",
        "hosts": [HOST],
        "instance_groups": [
            {"instance_group_name": "homogeneousCluster", "instance_type": instance_type, "hosts": [HOST]}
        ],
        "network_interface_name": "lo",
    }


def _input_data_config(request: Json) -> Json:
    mode = request["AlgorithmSpecification"]["TrainingInputMode"]
    return {
        channel["ChannelName"]: {
            "TrainingInputMode": channel.get("InputMode", mode),
            "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                "S3DataDistributionType", "FullyReplicated"
            ),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            **({"ContentType": channel["ContentType"]} if "ContentType" in channel else {}),
        }
        for channel in request.get("InputDataConfig", [])
    }


def _decoded(text: str) -> Any:
    """Returns a hyperparameter as the toolkit reads it: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@functools.cache
def _count_gpus() -> int:
    """Returns the number of NVIDIA devices a job may see, without asking torch for it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in {"", "-1"}])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
