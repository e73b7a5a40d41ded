"""The errors that the API answers with."""

from __future__ import annotations


class ServiceError(Exception):
    """An error answered as AWS answers it.

    Args:
        code: AWS's, such as ResourceNotFound.
        message: one line for the user.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def invalid(*problems: str) -> ServiceError:
    """Returns AWS's answer to a request it refuses for `problems`."""
    count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected"
    return ServiceError("ValidationException", f"{count}: {'; '.join(problems)}")
