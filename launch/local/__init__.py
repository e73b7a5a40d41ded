"""SageMaker on this machine: the same requests, answered by processes and plain files instead of the cloud.

    client = local_client(Path("outputs"))
    client.create_hyper_parameter_tuning_job(...)

`service` answers the operations, `tuner` runs a tuning job, `jobs` a training job, `host` an endpoint, each as a
process of its own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch.local.api.boto_client import local_client
    from launch.local.api.operations import LocalSageMaker
    from launch.local.hosting.runtime import local_runtime

__all__ = ["LocalSageMaker", "local_client", "local_runtime"]

_MODULES = {
    "LocalSageMaker": "launch.local.api.operations",
    "local_client": "launch.local.api.boto_client",
    "local_runtime": "launch.local.hosting.runtime",
}


def __getattr__(name: str) -> Any:  # the supervisor processes stay small: they need no botocore
    if name not in _MODULES:
        raise AttributeError(f"module 'launch.local' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
