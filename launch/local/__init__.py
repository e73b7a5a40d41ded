"""SageMaker on this machine: the same requests, answered with processes and plain files.

    client = local_client(Path("outputs"))
    client.create_hyper_parameter_tuning_job(...)

`api` answers the operations. Each job and each endpoint has a supervisor process: `jobs` runs training jobs, `tuning`
tuning jobs, `hosting` endpoints. They share nothing but the folders of `job_store`.
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


def __getattr__(name: str) -> Any:  # lazily: supervisor processes need no botocore
    if name not in _MODULES:
        raise AttributeError(f"module 'launch.local' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
