"""The container contract of a training job on this machine: `<job>/ml` for `/opt/ml`, and the `SM_*` variables.

The variable `SAGEMAKER_BASE_DIR`, which SageMaker's training toolkit reads too, holds the path of the folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from dogbreed.system.cpu import cpu_count
from launch.local.job_store import Json, write_json
from launch.local.jobs.process import with_launch_on_path

HOST = "algo-1"
LOCAL_BUCKET = "s3://local"
"""URI of the root folder in requests; `s3://local/NAME` is the folder NAME in it."""

_RESERVED = ("sagemaker_", "_tuning_objective_metric")
_STALE = ("SM_", "SAGEMAKER_", "TRAINING_JOB_")


class Share(NamedTuple):
    """The part of this machine that one of several parallel jobs may use."""

    parallel: int = 1
    """Number of jobs that run at the same time."""
    slot: int = 0
    """Index of this job among them."""

    @property
    def cpus(self) -> int:
        """Number of CPU cores."""
        return max(1, cpu_count() // self.parallel)

    def devices(self, visible: list[str]) -> list[str]:
        """Returns this job's part of the visible CUDA devices: an equal share, or one if there are too few."""
        count = len(visible) // self.parallel
        if count == 0:
            return visible[self.slot % len(visible) :][:1] if visible else []
        return visible[self.slot * count :][:count]


def local_path(uri: str, root: Path) -> Path | None:
    """Returns the path of a URI `s3://local/...`; None if it is outside the root folder."""
    if uri != LOCAL_BUCKET and not uri.startswith(f"{LOCAL_BUCKET}/"):
        return None
    path = (root / uri[len(LOCAL_BUCKET) :].lstrip("/")).resolve()
    return path if path.is_relative_to(root.resolve()) else None


def prepare_ml(folder: Path, request: Json, root: Path) -> Path:
    """Creates `<folder>/ml` with the content that a container finds in `/opt/ml`, and returns its path."""
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


def job_environment(ml: Path, request: Json, arn: str, share: Share) -> dict[str, str]:
    """Returns all environment variables of the training process."""
    inherited = with_launch_on_path({name: value for name, value in os.environ.items() if not name.startswith(_STALE)})
    inherited.setdefault("OMP_NUM_THREADS", str(share.cpus))
    visible = _visible_devices()
    devices = share.devices(visible)
    if devices != visible:
        inherited["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    contract = _contract(ml, request, share.cpus, len(devices))
    variables = {f"SM_{name.upper()}": _to_text(value) for name, value in contract.items()}
    for name, value in contract["hps"].items():
        variables[f"SM_HP_{name.upper()}"] = _to_text(value)
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


def _contract(ml: Path, request: Json, cpus: int, gpus: int) -> Json:
    """Returns the training environment as the toolkit describes it; each entry becomes an `SM_*` variable."""
    resources = _resource_config(request)
    channels = _input_data_config(request)
    hyperparameters = {
        name: _from_text(value)
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
        "num_gpus": gpus,
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


def _from_text(text: str) -> Any:
    """Returns a hyperparameter as the toolkit parses it: as JSON if that is possible, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _visible_devices() -> list[str]:
    """Returns the CUDA devices that this process may use, as in CUDA_VISIBLE_DEVICES, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in {"", "-1"}]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
