"""The rules: small pure functions over plain arrays. Importing this package registers them all, in report order."""

from dogbreed.debugger.rules import (  # noqa: I001 - the order of the report
    tensor,
    activations,
    updates,
    learning,
    losses,
    training,
    classes,
    data,
    liveness,
    system,
    gpu,
    steps,
)

__all__ = [
    "activations",
    "classes",
    "data",
    "gpu",
    "learning",
    "liveness",
    "losses",
    "steps",
    "system",
    "tensor",
    "training",
    "updates",
]
