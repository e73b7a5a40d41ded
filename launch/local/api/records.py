"""Models and endpoint configurations of this machine: names for requests that are kept, one file each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.local.api.errors import invalid
from launch.local.api.pagination import page, select
from launch.local.api.responses import timestamp
from launch.local.job_state import job_arn
from launch.local.job_store import read_json, write_json

Json = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """The requests of one kind."""

    folder: Path
    kind: str
    """As ARNs have it: `model` or `endpoint-config`."""
    field: str
    """As requests have it: `Model` or `EndpointConfig`."""

    def create(self, request: Json, problems: list[str]) -> Json:
        """Keeps a request.

        Raises:
            ServiceError: for one of `problems`, or because the name is taken.
        """
        name = request[f"{self.field}Name"]
        if self._path(name).exists():
            problems = [*problems, f'Cannot create already existing {self._words} "{job_arn(self.kind, name)}"']
        if problems:
            raise invalid(*problems)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(name), {"request": request, "created": time.time()})
        return {f"{self.field}Arn": job_arn(self.kind, name)}

    def request(self, name: str) -> Json:
        """Returns the request that was kept.

        Raises:
            ServiceError: there is none of that name.
        """
        request: Json = self._read(name)["request"]
        return request

    def describe(self, request: Json) -> Json:
        """Answers the describe operation."""
        name = request[f"{self.field}Name"]
        kept = {key: value for key, value in self.request(name).items() if key != "Tags"}
        created = timestamp(self._read(name)["created"])
        return kept | {f"{self.field}Arn": job_arn(self.kind, name), "CreationTime": created}

    def list(self, request: Json) -> Json:
        """Answers the list operation."""
        states = []
        for path in self.folder.glob("*.json"):
            created = read_json(path).get("created", 0.0)
            states.append({"name": path.stem, "created": created, "modified": created, "status": ""})
        found, more = page(select(states, {"SortOrder": "Descending", **request}, "CreationTime"), request)
        entries = [
            {
                f"{self.field}Name": state["name"],
                f"{self.field}Arn": job_arn(self.kind, state["name"]),
                "CreationTime": timestamp(state["created"]),
            }
            for state in found
        ]
        return {f"{self.field}s": entries, **more}

    def delete(self, request: Json) -> Json:
        """Answers the delete operation; what was made from the record goes on."""
        name = request[f"{self.field}Name"]
        self._read(name)
        self._path(name).unlink(missing_ok=True)
        return {}

    @property
    def _words(self) -> str:
        return self.kind.replace("config", "configuration").replace("-", " ")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, name: str) -> Json:
        found = read_json(self._path(name))
        if not found:
            raise invalid(f'Could not find {self._words} "{job_arn(self.kind, name)}"')
        return found
