"""Filters, order and pages of the list operations. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from botocore.utils import parse_to_aware_datetime

from launch.local.api.errors import invalid

Json = dict[str, Any]

DEFAULT_PAGE = 10
"""AWS's own MaxResults where the request names none."""
SORT_KEYS = {"Name": "name", "CreationTime": "created", "Status": "status", "FinalObjectiveMetricValue": "objective"}

NEVER = frozenset({"WarmPoolStatusEquals", "TrainingPlanArnEquals"})
"""Filters for what no job of this machine has."""


def select(states: Sequence[Json], request: Mapping[str, Any], default_sort: str) -> list[Json]:
    """Returns the states of jobs that a list request asks for, in its order (ascending unless it says otherwise)."""
    kept = [state for state in states if _wanted(state, request)]
    key = SORT_KEYS[request.get("SortBy", default_sort)]
    return sorted(kept, key=lambda state: state[key], reverse=request.get("SortOrder") == "Descending")


def _wanted(state: Json, request: Mapping[str, Any]) -> bool:
    if request.get("NameContains", "").lower() not in state["name"].lower():
        return False
    if request.get("StatusEquals", state["status"]) != state["status"]:
        return False
    if request.keys() & NEVER:
        return False
    for key, field in (("created", "CreationTime"), ("modified", "LastModifiedTime")):
        shown = round(state[key], 3)  # as answers tell it
        after, before = request.get(f"{field}After"), request.get(f"{field}Before")
        if after is not None and shown <= parse_to_aware_datetime(after).timestamp():
            return False
        if before is not None and shown >= parse_to_aware_datetime(before).timestamp():
            return False
    return True


def page(entries: Sequence[Json], request: Mapping[str, Any], default: int = DEFAULT_PAGE) -> tuple[list[Json], Json]:
    """Returns the page of `entries` asked for, and `{"NextToken": ...}` where another follows.

    Raises:
        ServiceError: the token is none that a list operation gave.
    """
    token = request.get("NextToken", "0")
    if not token.isdecimal():
        raise invalid(f"NextToken: {token!r} was not given by a list operation; leave it out to begin")
    first = int(token)
    last = first + request.get("MaxResults", default)
    return list(entries[first:last]), {"NextToken": str(last)} if last < len(entries) else {}
