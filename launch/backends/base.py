"""The interface of backends: clients, logs, and the values that requests refer to."""

from __future__ import annotations

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from omegaconf import DictConfig
from rich.console import Console

from launch.spec.contract import encode
from launch.spec.requests.endpoint import TrainedModel
from launch.spec.requests.training import Target

Upload = Callable[[], None]
"""Uploads the files that a request refers to; called after the request is validated and before it is sent."""


class LogTail(Protocol):
    """The log of a job or an endpoint while it is being written."""

    def read(self) -> list[str]:
        """Returns the lines written since the last call; all lines on the first call."""

    def tail(self, count: int) -> list[str]:
        """Returns the last `count` lines."""


class Backend(ABC):
    """Runs jobs and endpoints as configured by the `backend` node."""

    poll_s: ClassVar[float]
    """Seconds between two polls of a job or an endpoint."""
    detaches: ClassVar[bool]
    """Whether Ctrl-C leaves jobs running; otherwise it stops them."""
    billed: ClassVar[bool]
    """Whether instance time costs money."""
    takes_first_points: ClassVar[bool]
    """Whether the search accepts points to try first."""
    max_logs: ClassVar[int | None]
    """Trials of a sweep whose logs are read at its end, best first; None: all of them."""

    def __init__(self, settings: DictConfig) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def jobs_root(self) -> Path | None:
        """The folder that holds one folder per job; None if jobs run on other machines."""

    @property
    def results_root(self) -> Path:
        """The folder that holds one folder per sweep with its result files."""
        return Path(str(self.settings.root))

    @abstractmethod
    def client(self) -> Any:
        """Returns a boto3 SageMaker client."""

    @abstractmethod
    def runtime(self) -> Any:
        """Returns a boto3 sagemaker-runtime client, which invokes endpoints."""

    @abstractmethod
    def scaling_client(self) -> Any | None:
        """Returns a boto3 application-autoscaling client; None if endpoints do not scale."""

    @abstractmethod
    def logs(self, name: str) -> LogTail:
        """Returns the log of training job `name`."""

    @abstractmethod
    def endpoint_log(self, name: str) -> LogTail:
        """Returns the log of endpoint `name`."""

    @abstractmethod
    def endpoint_page(self, name: str) -> str | None:
        """Returns the URL of the web page of endpoint `name`; None if it has none."""

    @abstractmethod
    def describe_instances(self, cfg: DictConfig) -> str:
        """Returns a readable description of the instances that the jobs of `cfg` run on."""

    @abstractmethod
    def check_data(self, cfg: DictConfig, out: Console) -> None:
        """Checks images and weights once, before any job starts, if this machine can access them.

        Raises:
            UserError: Something is missing.
        """

    @abstractmethod
    def prepare(self, cfg: DictConfig, app: Path | None = None) -> tuple[Target, Upload]:
        """Returns the target of the jobs of `cfg`, and the upload to run before the request is sent.

        `app` is the folder of another Hydra application whose code the jobs run; None for dogbreed.

        Raises:
            UserError: A setting is missing, or jobs could not access their data, weights or requirements.
        """

    @abstractmethod
    def prepare_endpoint(self, cfg: DictConfig, model: TrainedModel) -> tuple[Target, TrainedModel, Upload]:
        """Returns the target of an endpoint, the model as the request refers to it, and the upload.

        Raises:
            UserError: A setting is missing.
        """

    def command(self, module: str, *args: str) -> list[str]:
        """Returns the argv of `python -m launch.MODULE ARGS` on this backend."""
        return ["python", "-m", f"launch.{module}", *args, *self._selection(submits=module == "train")]

    def command_line(self, module: str, *args: str) -> str:
        """Returns `command` as one line, quoted for a shell."""
        return shlex.join(self.command(module, *args))

    def _selection(self, submits: bool) -> list[str]:
        """Returns the overrides that select this backend; `submits` adds those that only new jobs need."""
        root = str(self.settings.root)
        return [] if root == "outputs" else [f"backend.root={_encode_path(root)}"]


def _encode_path(path: str) -> str:
    """Returns a path in Hydra's grammar, unquoted if possible: `encode` quotes every path that begins with /."""
    return path if re.fullmatch(r"\.{0,2}/[\w./-]*", path, re.ASCII) else encode(path)
