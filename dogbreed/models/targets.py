"""Finds and calls the class or function that a config names by `_target_`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from dogbreed.errors import UserError

_MAX_REASON = 300
"""Characters of a library's message that an error message repeats."""


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


def create(group: str, target: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Returns `target(*args, **settings)`.

    Args:
        group: Config group of `settings`, for the error message.
        target: A class or function.
        args: Arguments that are not settings.
        settings: The values of the group.

    Raises:
        UserError: `target` does not accept the settings.
    """
    try:
        return target(*args, **settings)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        reason = " ".join(str(error).split())[:_MAX_REASON]
        raise UserError(f"{group}: the settings do not fit {target.__name__}: {reason}") from error


def create_from(group: str, config: Mapping[str, Any], **settings: Any) -> Any:
    """Returns the object that `config` describes: `_target_` and the arguments that it takes, `settings` included.

    Raises:
        UserError: There is no such target, or it does not accept the settings.
    """
    arguments = {str(key): value for key, value in config.items()} | settings
    return create(group, load_target(str(arguments.pop("_target_", ""))), **arguments)
