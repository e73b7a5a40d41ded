"""Transfer-learning image classification on PyTorch Lightning.

    from dogbreed import ImageClassifier, ImageDataModule

Importing this package has no side effects and does not import torch; each name is imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dogbreed.callbacks.weight_averaging import AveragedWeights
    from dogbreed.data.datamodule import ImageDataModule
    from dogbreed.input_spec import InputSpec
    from dogbreed.models.classifier import ImageClassifier
    from dogbreed.plots import find_mistakes, show_images, show_mistakes

__all__ = [
    "AveragedWeights",
    "ImageClassifier",
    "ImageDataModule",
    "InputSpec",
    "find_mistakes",
    "show_images",
    "show_mistakes",
]

_MODULES = {
    "AveragedWeights": "dogbreed.callbacks.weight_averaging",
    "ImageClassifier": "dogbreed.models.classifier",
    "ImageDataModule": "dogbreed.data.datamodule",
    "InputSpec": "dogbreed.input_spec",
    "find_mistakes": "dogbreed.plots",
    "show_mistakes": "dogbreed.plots",
    "show_images": "dogbreed.plots",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dogbreed' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
