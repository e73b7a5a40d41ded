"""Images of a data set, and a model's mistakes, as figures that a notebook shows.

from dogbreed import show_mistakes, show_images
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

from dogbreed.data.classes import parse_class
from dogbreed.data.datamodule import ImageDataModule
from dogbreed.data.decode import decode_pixels
from dogbreed.storage.base import ObjectBody, Store

_COLUMNS = 6


class Mistake(NamedTuple):
    """An image that a model takes for something else."""

    key: str
    actual: str
    predicted: str
    confidence: float
    """In the wrong class, 0 to 1."""
    loss: float


class Gallery(Figure):
    """A figure that shows itself where it is the last line of a notebook's cell; `savefig` writes it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        FigureCanvasAgg(self).print_png(file)
        return file.getvalue()


def show_images(data: ImageDataModule, split: str = "train", count: int = 12) -> Gallery:
    """Returns `count` images of a split as they lie in the store, spread over its classes, with their names.

    Raises:
        UserError: there is no such split, or the data cannot be read.
    """
    keys = data.keys(split)
    some = [keys[int(place)] for place in np.linspace(0, len(keys) - 1, min(count, len(keys)))]
    return _gallery(data.store, some, [_name(Path(key).parent.name) for key in some])


def show_mistakes(model: Any, data: ImageDataModule, split: str = "test", count: int = 12) -> Gallery:
    """Returns the images of a split that `model` is most wrong about: what they are, and what it takes them for.

    Args:
        model: An `ImageClassifier`, on any device.
        data: As it was trained on: after `trainer.fit(model, data)` the images come in the size they had there.
        split: `valid`, `test` or `train`.
        count: Images at most.
    """
    worst = find_mistakes(model, data, split)[:count]
    titles = [f"{_name(m.actual)}\nnot {_name(m.predicted)} ({m.confidence:.0%})" for m in worst]
    return _gallery(data.store, [mistake.key for mistake in worst], titles)


@torch.inference_mode()
def find_mistakes(model: Any, data: ImageDataModule, split: str = "test") -> list[Mistake]:
    """Returns all images of a split that `model` takes for another class, those of the highest loss first."""
    was_training, keys = model.training, data.keys(split)
    model.eval()
    found = []
    for batch in data.loader(split):
        on_device = batch._replace(images=batch.images.to(model.device))
        chances = model(data.on_after_batch_transfer(on_device, 0).images).float().softmax(dim=1).cpu()
        for position, label, row in zip(batch.indices.tolist(), batch.labels.tolist(), chances, strict=True):
            if (guess := int(row.argmax())) != label:
                names = data.classes[label], data.classes[guess]
                loss = -math.log(max(float(row[label]), 1e-12))
                found.append(Mistake(keys[position], *names, float(row[guess]), loss))
    model.train(was_training)
    return sorted(found, key=lambda mistake: -mistake.loss)


def _name(folder: str) -> str:
    return parse_class(folder).name.replace("_", " ")


def _gallery(store: Store, keys: Sequence[str], titles: Sequence[str]) -> Gallery:
    rows = max(1, math.ceil(len(keys) / _COLUMNS))
    figure = Gallery(figsize=(2.0 * _COLUMNS, 2.3 * rows), layout="constrained", dpi=72)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten().tolist()
    for axis in axes:
        axis.set_axis_off()
    for axis, content, title in zip(axes, _fetch(store, keys), titles, strict=False):
        axis.imshow(decode_pixels(content.data, lambda height, width: 1))
        axis.set_title(title, fontsize=9)
    if not keys:
        figure.suptitle("none")
    return figure


def _fetch(store: Store, keys: Sequence[str]) -> list[ObjectBody]:
    """Returns the content of each key; in a thread, as a notebook has a running event loop in its own."""

    async def fetch() -> list[ObjectBody]:
        return await asyncio.gather(*(store.fetch(key) for key in keys))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(fetch())).result()
