"""The supervisor of one endpoint.

    python -m launch.local.hosting.endpoint_supervisor FOLDER LOCK

`create_endpoint` starts it detached. It unpacks the model, starts the server and records its port once it is ready. On
request it changes to another configuration (the old server serves until the new one is ready, then finishes its open
requests), and it ends the server and removes the folder when the endpoint is deleted.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import time
import zlib
from contextlib import suppress
from pathlib import Path

from launch.local.api.errors import ServiceError
from launch.local.hosting.endpoints import DESIRED, config_records, model_records, remove_folder
from launch.local.job_store import LOG, STOP, Json, read_json
from launch.local.jobs.container import local_path
from launch.local.jobs.process import (
    MAX_REASON_CHARACTERS,
    describe_exit,
    kill_group,
    signal_group,
    start_process,
    with_launch_on_path,
)
from launch.local.jobs.supervisor import Supervisor, supervise

POLL_S = 0.05
STARTUP_TIMEOUT_S = 600.0
"""Seconds until a server must be ready, unless its configuration gives another limit."""


class StartError(Exception):
    """A server cannot be started or ended before it was ready; the message is the reason."""


class Server:
    """A running server of one endpoint configuration.

    Raises:
        StartError: The model is unavailable, or the command cannot be started.
    """

    def __init__(self, folder: Path, config: str, command: list[str]):
        self.config = config
        root = folder.parent.parent
        try:
            self.variant = config_records(root).request(config)["ProductionVariants"][0]
            container = model_records(root).request(self.variant["ModelName"])["PrimaryContainer"]
        except ServiceError as error:
            raise StartError(str(error)) from None
        home = folder / "models" / config
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        model = _fetch_model(container, root, home)
        self._ready, self._log = home / "ready.json", folder / LOG
        timeout_s = self.variant.get("ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_TIMEOUT_S)
        self._deadline = time.monotonic() + timeout_s
        started = time.time()
        options = ["--model-dir", str(model), "--port", "0", "--ready-file", str(self._ready)]
        environment = with_launch_on_path(os.environ) | {"PYTHONUNBUFFERED": "1"} | container.get("Environment", {})
        try:
            self.process = start_process([*command, *options], self._log, environment)
        except OSError as error:
            raise StartError(f"{command[0]} cannot be started: {error.strerror}") from None
        self.process_state = {"pid": self.process.pid, "started": started}

    def port(self) -> int | None:
        """Returns the port of the server; None until it is ready.

        Raises:
            StartError: It ended, or the time for its start is over.
        """
        if ready := read_json(self._ready):
            return int(ready["port"])
        if self.process.poll() is not None:
            raise StartError(f"the server ended before it was ready: {self.describe_exit()}")
        if time.monotonic() > self._deadline:
            raise StartError("the server was not ready in time (ContainerStartupHealthCheckTimeoutInSeconds)")
        return None

    def describe_exit(self) -> str:
        """Returns the exit status of the server and the last line of its log."""
        return describe_exit(self.process.returncode, self._log)

    def stop(self, grace_s: float) -> None:
        """Ends the server: SIGTERM, and SIGKILL after `grace_s` seconds."""
        signal_group(self.process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        kill_group(self.process)


class Endpoint(Supervisor):
    """Supervises an endpoint."""

    def __init__(self, folder: Path, lock: int):
        super().__init__(folder, lock)
        self._current: Server | None = None
        self._next: Server | None = None

    def run(self) -> None:
        """Serves until the endpoint is deleted or fails; no server outlives this call."""
        self._listen()
        try:
            self._start(self.state["config"])
            while self.state["status"] != "Failed" and not (self.folder / STOP).exists():
                self._check_folder()
                self._step()
                time.sleep(POLL_S)
        except OSError as error:  # a full disk, or the folder was removed
            with suppress(OSError):
                self._fail(str(error))
        finally:
            for server in (self._current, self._next):
                if server is not None:
                    server.stop(self.state["stop_grace_s"])
        if (self.folder / STOP).exists():
            remove_folder(self.folder)

    def _step(self) -> None:
        if self._terminated:
            self._fail("the supervisor process received SIGTERM (the machine was stopped?)")
        elif self._current is not None and self._current.process.poll() is not None:
            self._fail(f"the server ended: {self._current.describe_exit()}")
        elif self._next is not None:
            self._poll_next(self._next)
        elif desired := read_json(self.folder / DESIRED).get("config"):
            self._save(status="Updating", pending=desired)
            (self.folder / DESIRED).unlink()
            self._start(desired)

    def _start(self, config: str) -> None:
        try:
            self._next = Server(self.folder, config, self.state["command"])
        except StartError as error:
            self._reject(str(error))
            return
        if self._current is None:
            self._save(**self._next.process_state)
        else:
            self._save(next=self._next.process_state)

    def _poll_next(self, server: Server) -> None:
        """Puts the next server in service once it is ready, and ends the one before."""
        try:
            port = server.port()
        except StartError as error:
            server.stop(0)
            self._reject(str(error))
            return
        if port is None:
            return
        previous, self._current, self._next = self._current, server, None
        for key in ("failure", "next", "pending"):
            self.state.pop(key, None)
        served = {"config": server.config, "variant": server.variant["VariantName"], "port": port}
        self._save(status="InService", **served, **server.process_state)
        if previous is not None:
            previous.stop(self.state["stop_grace_s"])
            self._remove_unused_models()

    def _reject(self, reason: str) -> None:
        """Fails the endpoint if nothing is in service; otherwise keeps the current server, as AWS does."""
        self._next = None
        for key in ("next", "pending"):
            self.state.pop(key, None)
        if self._current is None:
            self._fail(reason)
        else:
            self._save(status="InService", failure=f"the update failed, the endpoint is unchanged: {reason}")
            self._remove_unused_models()

    def _remove_unused_models(self) -> None:
        for model in (self.folder / "models").iterdir():
            if self._current is not None and model.name != self._current.config:
                shutil.rmtree(model, ignore_errors=True)

    def _fail(self, reason: str) -> None:
        self.state.pop("port", None)
        self._save(status="Failed", failure=reason[:MAX_REASON_CHARACTERS])


def _fetch_model(container: Json, root: Path, folder: Path) -> Path:
    """Returns the model folder of a container: its archive unpacked into `folder`, or a folder under `s3://local`.

    Raises:
        StartError: It is unavailable or cannot be unpacked.
    """
    url = container.get("ModelDataUrl")
    if url is None:
        model = local_path(container["ModelDataSource"]["S3DataSource"]["S3Uri"], root)
        assert model is not None  # checked when the model was created
        return model
    archive = local_path(url, root) or _download(url, folder / "model.tar.gz")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "model", filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise StartError(f"{url} cannot be unpacked: {error}") from None
    return folder / "model"


def _download(url: str, path: Path) -> Path:
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = url.removeprefix("s3://").partition("/")
    try:
        boto3.client("s3").download_file(bucket, key, str(path))
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise StartError(f"{url} cannot be downloaded: {error}") from None
    return path


if __name__ == "__main__":
    supervise(Endpoint)
