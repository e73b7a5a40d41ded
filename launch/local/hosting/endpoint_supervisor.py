"""One endpoint on this machine, watched from its creation to its deletion by a small process.

    python -m launch.local.hosting.endpoint_supervisor FOLDER LOCK

`create_endpoint` starts it and goes its own way: it brings the model, starts the server, writes its port when it
answers, changes to another configuration when asked to (the old server answers until the new one can, then finishes
what it has), and ends the server and removes the folder when the endpoint is deleted.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.local.api.errors import ServiceError
from launch.local.hosting.endpoints import DESIRED, Hosting, remove_folder
from launch.local.job_store import LOG, STOP, read_json, with_launch_on_path
from launch.local.jobs.container import local_path
from launch.local.jobs.supervisor import Supervisor, supervise
from launch.local.jobs.training_job import exit_words, kill_group, signal_group

POLL_S = 0.05
STARTUP_S = 600.0
"""How long a server may take until it answers, where its configuration does not say."""

Json = dict[str, Any]


class StartError(Exception):
    """A server cannot be started, or ended before it could answer; the message is the reason."""


class Server:
    """The server of one endpoint configuration, started.

    Args:
        folder: of the endpoint.
        config: name of the endpoint configuration.
        hosting: knows the configuration and its model.
        command: what serves a model folder.

    Raises:
        StartError: the model cannot be had, or the command cannot be started.
    """

    def __init__(self, folder: Path, config: str, hosting: Hosting, command: list[str]):
        self.config = config
        try:
            self.variant = hosting.configs.request(config)["ProductionVariants"][0]
            container = hosting.models.request(self.variant["ModelName"])["PrimaryContainer"]
        except ServiceError as error:
            raise StartError(str(error)) from None
        home = folder / "models" / config
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        model = _bring_model(container, hosting.root, home)
        self._ready, self._log = home / "ready.json", folder / LOG
        self._deadline = time.monotonic() + self.variant.get("ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_S)
        started = time.time()
        options = ["--model-dir", str(model), "--port", "0", "--ready-file", str(self._ready)]
        try:
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*command, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=_environment(container.get("Environment", {})),
                )
        except OSError as error:
            raise StartError(f"{command[0]} cannot be started: {error.strerror}") from None
        self.process_state = {"pid": self.process.pid, "started": started}

    def port(self) -> int | None:
        """Returns where the server answers; None while it cannot yet.

        Raises:
            StartError: it never will.
        """
        if ready := read_json(self._ready):
            return int(ready["port"])
        if self.process.poll() is not None:
            raise StartError(f"the server ended before it could answer: {self.how_it_ended()}")
        if time.monotonic() > self._deadline:
            raise StartError("the server did not answer in time (ContainerStartupHealthCheckTimeoutInSeconds)")
        return None

    def how_it_ended(self) -> str:
        """Returns the exit status of the server in words, and its last word."""
        return exit_words(self.process.returncode, self._log)

    def stop(self, grace_s: float) -> None:
        """Ends the server: SIGTERM, and SIGKILL after `grace_s` seconds."""
        signal_group(self.process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        kill_group(self.process)


class Endpoint(Supervisor):
    """An endpoint in `folder`, whose lock this process holds."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._hosting = Hosting(folder.parent.parent, self.state["command"], self.state["stop_grace_s"])
        self._serving: Server | None = None
        self._coming: Server | None = None

    def run(self) -> None:
        """Serves until the endpoint is deleted or fails; whatever happens, no server outlives this call."""
        self._listen()
        try:
            self._start(self.state["config"])
            while self.state["status"] != "Failed" and not (self.folder / STOP).exists():
                self._check_folder()
                self._step()
                time.sleep(POLL_S)
        except OSError as error:  # a full disk, a folder removed under the endpoint
            with suppress(OSError):
                self._fail(str(error))
        finally:
            for server in (self._serving, self._coming):
                if server is not None:
                    server.stop(self.state["stop_grace_s"])
        if (self.folder / STOP).exists():
            remove_folder(self.folder)

    def _step(self) -> None:
        if self._told_to_end:
            self._fail("its supervisor process was told to end (the machine was stopped?)")
            return
        if self._serving is not None and self._serving.process.poll() is not None:
            self._fail(f"the server ended: {self._serving.how_it_ended()}")
            return
        if self._coming is not None:
            self._look_at_coming(self._coming)
        elif desired := read_json(self.folder / DESIRED).get("config"):
            self._save(status="Updating")
            (self.folder / DESIRED).unlink()
            self._start(desired)

    def _start(self, config: str) -> None:
        try:
            self._coming = Server(self.folder, config, self._hosting, self.state["command"])
        except StartError as error:
            self._give_up(str(error))
            return
        if self._serving is None:
            self._save(**self._coming.process_state)
        else:
            self._save(coming=self._coming.process_state)

    def _look_at_coming(self, coming: Server) -> None:
        try:
            port = coming.port()
        except StartError as error:
            coming.stop(0)
            self._give_up(str(error))
            return
        if port is None:
            return
        before, self._serving, self._coming = self._serving, coming, None
        self.state.pop("failure", None)
        what = {"config": coming.config, "variant": coming.variant["VariantName"], "port": port}
        self.state.pop("coming", None)
        self._save(status="InService", **what, **coming.process_state)
        if before is not None:
            before.stop(self.state["stop_grace_s"])

    def _give_up(self, reason: str) -> None:
        """Ends the endpoint where nothing answers; goes on with what does where an update fails, as AWS does."""
        self._coming = None
        self.state.pop("coming", None)
        if self._serving is None:
            self._fail(reason)
        else:
            self._save(status="InService", failure=f"the update failed, what was in service goes on: {reason}")

    def _fail(self, reason: str) -> None:
        self.state.pop("port", None)
        self._save(status="Failed", failure=reason[:1024])


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    return {**with_launch_on_path(os.environ), "PYTHONUNBUFFERED": "1", **own}


def _bring_model(container: Json, root: Path, home: Path) -> Path:
    """Returns the folder of the model that a container is given: unpacked into `home`, or where it lies.

    Raises:
        StartError: it cannot be had or unpacked.
    """
    url = container.get("ModelDataUrl")
    if url is None:
        folder = local_path(container["ModelDataSource"]["S3DataSource"]["S3Uri"], root)
        assert folder is not None  # refused when the model was made
        return folder
    archive = local_path(url, root) or _download(url, home / "model.tar.gz")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(home / "model", filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise StartError(f"{url} cannot be unpacked: {error}") from None
    return home / "model"


def _download(url: str, place: Path) -> Path:
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = url.removeprefix("s3://").partition("/")
    try:
        boto3.client("s3").download_file(bucket, key, str(place))
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise StartError(f"{url} cannot be downloaded: {error}") from None
    return place


if __name__ == "__main__":
    supervise(Endpoint)
