"""Looks up a class or function by its dotted name, the `_target_` of a config."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dogbreed.errors import UserError


def load_target(name: str) -> Any:
    """Returns the attribute that `name`, such as `torch.optim.SGD`, refers to.

    Raises:
        UserError: There is no such module or attribute.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_={name} cannot be imported: {error}") from None
