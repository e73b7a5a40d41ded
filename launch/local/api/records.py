"""Models and endpoint configurations on this machine: stored requests, one file each."""

from __future__ import annotations

import builtins
import time
from dataclasses import dataclass
from pathlib import Path

from launch.local.api.errors import invalid
from launch.local.api.pagination import page, select
from launch.local.api.responses import timestamp
from launch.local.job_store import Json, job_arn, read_json, write_json


@dataclass(frozen=True)
class Records:
    """The stored requests of one resource type."""

    folder: Path
    kind: str
    """Resource type in ARNs: `model` or `endpoint-config`."""
    field: str
    """Resource type in requests: `Model` or `EndpointConfig`."""

    def create(self, request: Json, problems: list[str]) -> Json:
        """Stores a request.

        Raises:
            ServiceError: There are `problems`, or the name is taken.
        """
        name = request[f"{self.field}Name"]
        if self._path(name).exists():
            problems = [*problems, f'Cannot create already existing {self._title} "{job_arn(self.kind, name)}"']
        if problems:
            raise invalid(*problems)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(name), {"request": request, "created": time.time()})
        return {f"{self.field}Arn": job_arn(self.kind, name)}

    def request(self, name: str) -> Json:
        """Returns the stored request of that name.

        Raises:
            ServiceError: There is none.
        """
        request: Json = self._read(name)["request"]
        return request

    def describe(self, request: Json) -> Json:
        """Answers the describe operation."""
        record = self._read(name := request[f"{self.field}Name"])
        fields = {key: value for key, value in record["request"].items() if key != "Tags"}
        return fields | {
            f"{self.field}Arn": job_arn(self.kind, name),
            "CreationTime": timestamp(record["created"]),
        }

    def tags(self, name: str) -> tuple[Path, builtins.list[Json]]:
        """Returns the file that stores added tags of a resource, and its tags."""
        path, created = self.folder / f"{name}.tags", self.request(name)
        return path, (read_json(path) or created).get("Tags", [])

    def list(self, request: Json) -> Json:
        """Answers the list operation; the newest come first by default."""
        states = []
        for path in self.folder.glob("*.json"):
            created = read_json(path).get("created", 0.0)
            states.append({"name": path.stem, "created": created, "modified": created, "status": ""})
        selected, more = page(select(states, {"SortOrder": "Descending", **request}, "CreationTime"), request)
        entries = [
            {
                f"{self.field}Name": state["name"],
                f"{self.field}Arn": job_arn(self.kind, state["name"]),
                "CreationTime": timestamp(state["created"]),
            }
            for state in selected
        ]
        return {f"{self.field}s": entries, **more}

    def delete(self, request: Json) -> Json:
        """Answers the delete operation; what was created from the record is not affected."""
        name = request[f"{self.field}Name"]
        self._read(name)
        self._path(name).unlink(missing_ok=True)
        (self.folder / f"{name}.tags").unlink(missing_ok=True)
        return {}

    @property
    def _title(self) -> str:
        return self.kind.replace("config", "configuration").replace("-", " ")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, name: str) -> Json:
        record = read_json(self._path(name))
        if not record:
            raise invalid(f'Could not find {self._title} "{job_arn(self.kind, name)}"')
        return record
