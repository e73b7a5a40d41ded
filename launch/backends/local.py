"""This machine as a backend: jobs are processes, their logs are files, nothing is uploaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from dogbreed.errors import UserError
from launch.backends.base import Backend, LogTail, Upload
from launch.local.jobs.metrics import LineTail
from launch.spec.naming import sweep_of
from launch.spec.requests.endpoint import TrainedModel
from launch.spec.requests.training import Target

LOCAL_TARGET = Target(
    role_arn="arn:aws:iam::000000000000:role/this-machine",
    image="dogbreed",
    output_path="s3://local",
    is_local=True,
)
"""Placeholders: no role or image is used here, but requests must be ones that AWS accepts."""


class LocalBackend(Backend):
    """Runs jobs and endpoints as processes of this machine, below `backend.root`."""

    poll_s = 0.25
    detaches = False
    billed = False
    takes_first_points = True
    max_logs = None

    def __init__(self, settings: DictConfig) -> None:
        super().__init__(settings)
        root = settings.root
        if not isinstance(root, str):
            raise UserError(f"backend.root={root}: give the folder of the jobs, as in backend.root=outputs")
        if os.path.isfile(root):  # noqa: PTH113 - Path.is_file() raises if the folder is not readable
            raise UserError(f"backend.root={root} is a file: give a folder")
        self.root = Path(root)

    @property
    def jobs_root(self) -> Path:
        """The folder that holds one folder per job."""
        return self.root

    def client(self) -> Any:
        """Returns a boto3 SageMaker client that is answered on this machine."""
        from launch.local.api.boto_client import local_client

        return local_client(self.root)

    def runtime(self) -> Any:
        """Returns a boto3 sagemaker-runtime client that is answered on this machine."""
        from launch.local.hosting.runtime import local_runtime

        return local_runtime(self.root)

    def scaling_client(self) -> None:
        """Returns None: endpoints on this machine do not scale."""

    def logs(self, name: str) -> LogTail:
        """Returns the log file of training job `name`, which may be the trial of a sweep."""
        trial = self.root / (sweep_of(name) or name) / name / "log.txt"
        return LineTail(trial if trial.is_file() else self.root / name / "log.txt")

    def endpoint_log(self, name: str) -> LogTail:
        """Returns the log file of endpoint `name`."""
        return LineTail(self.root / "endpoints" / name / "log.txt")

    def endpoint_page(self, name: str) -> str | None:
        """Returns the URL of the web page of endpoint `name`; None while it is not in service."""
        from launch.local.hosting.endpoints import page_url

        return page_url(self.root, name)

    def describe_instances(self, cfg: DictConfig) -> str:
        """Returns "this machine"."""
        return "this machine"

    def check_data(self, cfg: DictConfig, out: Console) -> None:
        """Checks that the weights file exists, lists the images and prints how many there are.

        Raises:
            UserError: The weights file or the images are missing.
        """
        from dogbreed.data.index import SPLITS, build_index
        from dogbreed.storage import open_store

        url, weights = str(cfg.data.url), str(cfg.model.weights)
        if weights not in ("hub", "random") and "://" not in weights and not Path(weights).expanduser().is_file():
            raise UserError(f"model.weights={weights}: no such file (or type hub or random)")
        if url.startswith("s3://"):
            return  # the job lists it, with the job's own credentials
        fractions = {"val_fraction": cfg.data.val_fraction, "test_fraction": cfg.data.test_fraction}
        index = build_index(open_store(url).list_objects(), url, seed=0, **fractions)
        counts = ", ".join(f"{len(index.splits.get(name, ()))} {name}" for name in SPLITS)
        out.print(f"{len(index.classes)} classes; images: {counts}", soft_wrap=True)

    def prepare(self, cfg: DictConfig, app: Path | None = None) -> tuple[Target, Upload]:
        """Returns placeholders and no upload: jobs run the code of this machine as it is."""
        if str(cfg.model.weights).startswith("s3://"):
            raise UserError(f"model.weights={cfg.model.weights}: on this machine give the path of a local file")
        return LOCAL_TARGET, _no_upload

    def prepare_endpoint(self, cfg: DictConfig, model: TrainedModel) -> tuple[Target, TrainedModel, Upload]:
        """Returns placeholders, the model as it is, and no upload."""
        return LOCAL_TARGET, model, _no_upload


def _no_upload() -> None:
    """Does nothing: jobs on this machine read what is on it."""
