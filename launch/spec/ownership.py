"""The tags by which the launcher recognizes what it created. Pure."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping

from launch.spec.contract import Json

PREFIX = "dogbreed:"
"""Prefix of the launcher's own tags."""

CREATED_BY = f"{PREFIX}created-by"
NAME = f"{PREFIX}name"
VERSION = f"{PREFIX}version"

CREATOR = "dogbreed.launch"
"""Value of the tag `CREATED_BY`."""


def owner_tags(name: str, others: Iterable[Mapping[str, str]] = ()) -> list[Json]:
    """Returns `others`, followed by the tags that mark a resource as the launcher's.

    Args:
        name: The sweep, training or endpoint that the resource belongs to.
        others: Further tags in the API's form; those that begin with `dogbreed:` are replaced.
    """
    own = {CREATED_BY: CREATOR, NAME: name, VERSION: _version()}
    return [*(dict(tag) for tag in others if tag["Key"] not in own), *({"Key": k, "Value": v} for k, v in own.items())]


def is_owned(tags: Mapping[str, str], name: str) -> bool:
    """Returns whether `tags` mark a resource that the launcher created for `name`.

    A trial has the tags of its sweep, so `name` is the sweep's for a trial.
    """
    return tags.get(CREATED_BY) == CREATOR and tags.get(NAME) == name


def describe_owner(tags: Mapping[str, str]) -> str:
    """Returns what the tags of a foreign resource show about its origin, as a clause."""
    if tags.get(CREATED_BY) == CREATOR:
        return f"it belongs to {tags.get(NAME, 'another name')}"
    shown = ", ".join(f"{key}={value}" for key, value in sorted(tags.items()))
    return f"it has no tag {CREATED_BY}={CREATOR}; its tags: {shown or 'none'}"


def _version() -> str:
    try:
        return importlib.metadata.version("dogbreed")
    except importlib.metadata.PackageNotFoundError:  # a checkout on sys.path
        return "unknown"
