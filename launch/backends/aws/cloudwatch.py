"""Logs of jobs and endpoints in CloudWatch."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

JOB_LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDPOINT_LOG_GROUP = "/aws/sagemaker/Endpoints"
NEWEST_STREAMS = 5
"""Streams whose ends are read for the end of a log: autoscaling creates one per instance."""


class CloudWatchLog:
    """The log streams of a training job, or of an endpoint's variant: one per host."""

    def __init__(self, client: Any, name: str, group: str = JOB_LOG_GROUP) -> None:
        self._client = client
        self._name = name
        self._group = group
        self._tokens: dict[str, str] = {}

    def read(self) -> list[str]:
        """Returns the lines written since the last call; with several hosts each line begins with its host."""
        lines = []
        streams = self._streams()
        for stream in streams:
            host = f"{'-'.join(stream.rpartition('/')[2].split('-')[:2])}: " if len(streams) > 1 else ""
            lines += [f"{host}{line}" for line in self._new_lines(stream)]
        return lines

    def tail(self, count: int) -> list[str]:
        """Returns the last `count` lines of the streams that were written last; the group must be the job's alone."""
        events = []
        for stream in self._list_streams(NEWEST_STREAMS, orderBy="LastEventTime", descending=True):
            page = self._client.get_log_events(
                logGroupName=self._group, logStreamName=stream, limit=count, startFromHead=False
            )
            events += page["events"]
        events.sort(key=lambda event: event["timestamp"])
        return [line for event in events for line in event["message"].splitlines()][-count:]

    def _streams(self) -> list[str]:
        return self._list_streams(logStreamNamePrefix=f"{self._name}/")

    def _list_streams(self, limit: int | None = None, **options: Any) -> list[str]:
        paginator = self._client.get_paginator("describe_log_streams")
        try:
            pages = paginator.paginate(logGroupName=self._group, PaginationConfig={"MaxItems": limit}, **options)
            return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":  # the first job creates the group
                raise
            return []

    def _new_lines(self, stream: str) -> list[str]:
        lines: list[str] = []
        while True:
            token = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            page = self._client.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **token
            )
            lines += [line for event in page["events"] for line in event["message"].splitlines()]
            if page["nextForwardToken"] == self._tokens.get(stream):  # the same token again: no more events yet
                return lines
            self._tokens[stream] = page["nextForwardToken"]
