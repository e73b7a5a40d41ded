"""The log of a training job while it is written: a file on this machine, CloudWatch at AWS."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import ClientError
from omegaconf import DictConfig

from launch.spec.requests.endpoint import VARIANT

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDPOINT_LOG_GROUP = "/aws/sagemaker/Endpoints"


class LogTail(Protocol):
    """What a job has printed since the last look."""

    def read(self) -> list[str]:
        """Returns the lines that have come since the last call."""


def open_log(backend: DictConfig, name: str) -> LogTail:
    """Returns the log of training job `name`, read from its beginning."""
    if backend.name == "local":
        return FileLog(local_log(Path(backend.root), name))
    from launch.backends.client import aws_client

    return CloudWatchLog(aws_client("logs", backend), name)


def open_endpoint_log(backend: DictConfig, name: str) -> LogTail:
    """Returns the log of endpoint `name`, read from its beginning."""
    if backend.name == "local":
        return FileLog(Path(backend.root) / "endpoints" / name / "log.txt")
    from launch.backends.client import aws_client

    return CloudWatchLog(aws_client("logs", backend), VARIANT, f"{ENDPOINT_LOG_GROUP}/{name}")


def local_log(root: Path, name: str) -> Path:
    """Returns where the log of a training job of this machine lies, that of a sweep's trial included."""
    trial = root / name.rsplit("-", 2)[0] / name / "log.txt"
    return trial if trial.is_file() else root / name / "log.txt"


class FileLog:
    """The log in a file, whole lines only; the file need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read(self) -> list[str]:
        """Returns the lines that have come since the last call."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        whole, newline, _ = text.rpartition(b"\n")
        self._position += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines() if newline else []


class CloudWatchLog:
    """The log streams of a job, one a host, in CloudWatch.

    Args:
        client: boto3's logs client.
        name: of the training job, or of an endpoint's variant.
        group: the log group.
    """

    def __init__(self, client: Any, name: str, group: str = LOG_GROUP) -> None:
        self._client = client
        self._name = name
        self._group = group
        self._tokens: dict[str, str] = {}

    def read(self) -> list[str]:
        """Returns the lines that have come since the last call; with several hosts each begins with its host."""
        lines = []
        streams = self._streams()
        for stream in streams:
            host = f"{'-'.join(stream.rpartition('/')[2].split('-')[:2])}: " if len(streams) > 1 else ""
            lines += [f"{host}{line}" for line in self._new_lines(stream)]
        return lines

    def _streams(self) -> list[str]:
        try:
            answer = self._client.describe_log_streams(logGroupName=self._group, logStreamNamePrefix=f"{self._name}/")
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":  # the account's first job makes it
                raise
            return []
        return [stream["logStreamName"] for stream in answer["logStreams"]]

    def _new_lines(self, stream: str) -> list[str]:
        lines: list[str] = []
        while True:
            token = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            answer = self._client.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **token
            )
            lines += [line for event in answer["events"] for line in event["message"].splitlines()]
            if answer["nextForwardToken"] == self._tokens.get(stream):  # AWS says so that there is no more yet
                return lines
            self._tokens[stream] = answer["nextForwardToken"]
