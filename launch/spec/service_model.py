"""Validates values strictly against shapes of botocore's SageMaker model.

botocore itself checks unknown keys, required keys, types and minimums before sending. The model also carries maximums,
patterns and enumerations that only the service checks; `check_shape` checks them all, so that a mistake is reported
before a request is sent.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel

from dogbreed.errors import did_you_mean

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "character": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "timestamp": (dt.datetime, int, float, str),
    "blob": (bytes, bytearray, str),
    "structure": (dict,),
    "list": (list, tuple),
    "map": (dict,),
}


@functools.cache
def model_loader() -> Loader:
    """Returns a loader that caches botocore's parsed models."""
    return Loader()


@functools.cache
def service_model(service: str = "sagemaker") -> ServiceModel:
    """Returns botocore's model of an API; SageMaker's by default."""
    return ServiceModel(model_loader().load_service_model(service, "service-2"), service)


def check_shape(shape: Any, value: Any, path: str = "") -> list[str]:
    """Returns the problems of `value` as a `shape`, one line each, beginning with the field's path."""
    if not _has_type(shape, value):
        return [f"{path or shape.name}: {value!r} is {_article(value)}; give {_wanted(shape)}"]
    if shape.type_name == "structure":
        return [] if getattr(shape, "is_document_type", False) else _check_structure(shape, value, path)
    problems = _check_size(shape, value, path)
    if shape.type_name == "list":
        for index, item in enumerate(value):
            problems += check_shape(shape.member, item, f"{path}[{index}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            problems += check_shape(shape.key, key, f"{path}[{key!r}] (its name)")
            problems += check_shape(shape.value, item, f"{path}[{key!r}]")
    elif shape.type_name == "string" and not problems:
        problems += _check_text(shape, value, path)
    return problems


def _has_type(shape: Any, value: Any) -> bool:
    if isinstance(value, bool):
        return bool(shape.type_name == "boolean")
    return isinstance(value, _PYTHON_TYPES[shape.type_name])


def _check_structure(shape: Any, value: dict[str, Any], path: str) -> list[str]:
    prefix = f"{path}." if path else ""
    problems = [f"{prefix}{name}: missing; it is required" for name in shape.required_members if name not in value]
    for name, item in value.items():
        if name in shape.members:
            problems += check_shape(shape.members[name], item, f"{prefix}{name}")
        else:
            problems.append(f"{prefix}{name}: no such field here{did_you_mean(str(name), shape.members)}")
    return problems


def _check_size(shape: Any, value: Any, path: str) -> list[str]:
    """Returns the problem of a number's value, a text's length or a collection's number of items."""
    number = shape.type_name in {"integer", "long", "float", "double"}
    size = value if number else len(value) if hasattr(value, "__len__") else None
    if size is None:
        return []
    unit = "" if number else " characters" if shape.type_name in {"string", "blob"} else " entries"
    given = repr(value) if number else f"{size}{unit}"
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        return [f"{path}: {given} is below the minimum, {low}{unit}"]
    if high is not None and size > high:
        return [f"{path}: {given} is above the maximum, {high}{unit}"]
    return []


def _check_text(shape: Any, value: str, path: str) -> list[str]:
    if shape.enum and value not in shape.enum:
        return [f"{path}: {value!r} is not one of its values{did_you_mean(value, shape.enum)}"]
    pattern = _compiled(shape.metadata.get("pattern", ""))
    if pattern and not pattern.fullmatch(value):
        return [f"{path}: {_shortened(value)} does not match the pattern {pattern.pattern}"]
    return []


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Returns `pattern` compiled, or None if Python's `re` does not support it (such as \\p{L})."""
    try:
        return re.compile(pattern) if pattern else None
    except re.error:
        return None


def _shortened(value: str, limit: int = 80) -> str:
    return repr(value if len(value) <= limit else value[:limit] + "...")


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _wanted(shape: Any) -> str:
    name = {"structure": "dict", "map": "dict", "long": "integer", "double": "float"}.get(
        shape.type_name, shape.type_name
    )
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
