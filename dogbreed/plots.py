"""Figures for notebooks: images of a data set, and the images that a model classifies wrongly.

from dogbreed import show_images, show_mistakes
"""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dogbreed.data.datamodule import ImageDataModule
from dogbreed.data.decode import decode_pixels
from dogbreed.labels import parse_class
from dogbreed.storage.base import ObjectBody, Store

_COLUMNS = 6


class Mistake(NamedTuple):
    """An image that a model assigns to a wrong class."""

    key: str
    actual: str
    """Name of the class folder."""
    predicted: str
    """Name of the class folder."""
    confidence: float
    """Probability of the predicted class, 0 to 1."""
    loss: float
    """Cross-entropy, nats."""


class ImageGrid(Figure):
    """A figure that a notebook displays as the last expression of a cell; `savefig` writes it to a file."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        FigureCanvasAgg(self).print_png(file)
        return file.getvalue()


def show_images(data: ImageDataModule, split: str = "train", count: int = 12) -> ImageGrid:
    """Returns `count` original images of a split, spread evenly over its classes, with their class names.

    Raises:
        UserError: unknown split, or the data cannot be read.
    """
    keys = data.keys(split)
    selected = [keys[int(position)] for position in np.linspace(0, len(keys) - 1, min(count, len(keys)))]
    return _grid(data.store, selected, [_display_name(Path(key).parent.name) for key in selected])


def show_mistakes(model: Any, data: ImageDataModule, split: str = "test", count: int = 12) -> ImageGrid:
    """Returns the misclassified images with the highest loss, with their actual and predicted classes.

    Args:
        model: An `ImageClassifier`, on any device.
        data: The data set; images are prepared in the model's own format, with `data.image_size` if that is set.
        split: `train`, `val` or `test`.
        count: Maximum number of images.
    """
    worst = find_mistakes(model, data, split)[:count]
    titles = [f"{_display_name(m.actual)}\nnot {_display_name(m.predicted)} ({m.confidence:.0%})" for m in worst]
    return _grid(data.store, [mistake.key for mistake in worst], titles)


@torch.inference_mode()
def find_mistakes(model: Any, data: ImageDataModule, split: str = "test") -> list[Mistake]:
    """Returns all images of a split that `model` assigns to a wrong class, highest loss first.

    Args:
        model: An `ImageClassifier`, on any device; of a model without `input_spec`, the data module's is used.
        data: The data set; images are prepared in the model's own format, with `data.image_size` if that is set.
        split: `train`, `val` or `test`.
    """
    spec = model.input_spec.resized(data.image_size) if hasattr(model, "input_spec") else data.input_spec
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    was_training, keys = model.training, data.keys(split)
    model.eval()
    mistakes = []
    for batch in data.loader(split, input_spec=spec):
        images = data.normalise(batch.images.to(model.device), spec).to(dtype)
        probabilities = model(images).float().softmax(dim=1).cpu()
        for position, label, row in zip(batch.indices.tolist(), batch.labels.tolist(), probabilities, strict=True):
            if (predicted := int(row.argmax())) != label:
                names = data.classes[label], data.classes[predicted]
                loss = -math.log(max(float(row[label]), 1e-12))
                mistakes.append(Mistake(keys[position], *names, float(row[predicted]), loss))
    model.train(was_training)
    return sorted(mistakes, key=lambda mistake: -mistake.loss)


def _display_name(folder: str) -> str:
    return parse_class(folder).name.replace("_", " ")


def _grid(store: Store, keys: Sequence[str], titles: Sequence[str]) -> ImageGrid:
    rows = max(1, math.ceil(len(keys) / _COLUMNS))
    figure = ImageGrid(figsize=(2.0 * _COLUMNS, 2.3 * rows), layout="constrained", dpi=72)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten().tolist()
    for axis in axes:
        axis.set_axis_off()
    for axis, body, title in zip(axes, _fetch(store, keys), titles, strict=False):
        axis.imshow(decode_pixels(body.data))
        axis.set_title(title, fontsize=9)
    if not keys:
        figure.suptitle("none")
    return figure


def _fetch(store: Store, keys: Sequence[str]) -> list[ObjectBody]:
    """Returns the content of each key; in a thread, because a notebook's own thread has a running event loop."""

    async def fetch() -> list[ObjectBody]:
        return await asyncio.gather(*(store.fetch(key) for key in keys))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(fetch())).result()
