"""Errors of the API."""

from __future__ import annotations


class ServiceError(Exception):
    """An error response of an API operation, with AWS's error code, such as ResourceNotFound."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def invalid(*problems: str) -> ServiceError:
    """Returns the error by which AWS rejects a request because of `problems`."""
    count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected"
    return ServiceError("ValidationException", f"{count}: {'; '.join(problems)}")
