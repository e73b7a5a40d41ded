"""Filters, sort order and pages of the list operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from botocore.utils import parse_to_aware_datetime

from launch.local.api.errors import invalid
from launch.local.job_store import Json

DEFAULT_PAGE_SIZE = 10
"""MaxResults of a request that gives none."""
SORT_KEYS = {"Name": "name", "CreationTime": "created", "Status": "status", "FinalObjectiveMetricValue": "objective"}
"""SortBy of a request to the entry of a state."""
FILTERS = frozenset({"NameContains", "StatusEquals"}) | {
    f"{field}{side}" for field in ("CreationTime", "LastModifiedTime") for side in ("After", "Before")
}


def select(states: Sequence[Json], request: Mapping[str, Any], default_sort: str) -> list[Json]:
    """Returns the states that a list request selects, in its order; ascending by default.

    Raises:
        ServiceError: The request has a filter that is not supported here.
    """
    if unknown := [
        name for name in request if name.endswith(("Equals", "Contains", "After", "Before")) and name not in FILTERS
    ]:
        raise invalid(*(f"{name}: not supported on this machine; leave it out" for name in unknown))
    selected = [state for state in states if _matches(state, request)]
    key = SORT_KEYS[request.get("SortBy", default_sort)]
    return sorted(selected, key=lambda state: state[key], reverse=request.get("SortOrder") == "Descending")


def _matches(state: Json, request: Mapping[str, Any]) -> bool:
    if request.get("NameContains", "").lower() not in state["name"].lower():
        return False
    if request.get("StatusEquals", state["status"]) != state["status"]:
        return False
    for key, field in (("created", "CreationTime"), ("modified", "LastModifiedTime")):
        time = round(state[key], 3)  # the precision of responses
        after, before = request.get(f"{field}After"), request.get(f"{field}Before")
        if after is not None and time <= parse_to_aware_datetime(after).timestamp():
            return False
        if before is not None and time >= parse_to_aware_datetime(before).timestamp():
            return False
    return True


def page(entries: Sequence[Json], request: Mapping[str, Any], size: int = DEFAULT_PAGE_SIZE) -> tuple[list[Json], Json]:
    """Returns the requested page of `entries`, and `{"NextToken": ...}` if another one follows.

    Raises:
        ServiceError: The request's token was not returned by a list operation.
    """
    token = request.get("NextToken", "0")
    if not token.isdecimal():
        raise invalid(f"NextToken: {token!r} was not returned by a list operation; leave it out for the first page")
    first = int(token)
    last = first + request.get("MaxResults", size)
    return list(entries[first:last]), {"NextToken": str(last)} if last < len(entries) else {}
