"""The numpy arrays that rules read. No torch here, so that rules run anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

SAMPLE_SIZE = 16
"""Number of elements of each tensor that are recorded, always the same ones, to see whether it changed at all."""

STATISTICS = ("mean", "abs_mean", "abs_max", "var", "zero_fraction", "p5", "p95")
"""Statistics of each tensor at a recorded step."""


@dataclass(frozen=True)
class Series:
    """A number over time: `values[i]` at `steps[i]`, an optimizer step or an epoch counted from 0."""

    steps: NDArray[np.int64]
    values: Array

    @classmethod
    def of(cls, values: Sequence[float], steps: Sequence[int] | None = None) -> Series:
        """Returns a series of `values` at `steps` (default 0, 1, 2, ...)."""
        at = np.arange(len(values)) if steps is None else steps
        return cls(np.asarray(at, dtype=np.int64), np.asarray(values, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.values)

    def finite(self) -> Series:
        """Returns the series without NaN and infinity."""
        keep = np.isfinite(self.values)
        return Series(self.steps[keep], self.values[keep])


@dataclass(frozen=True)
class TensorSeries:
    """Statistics of N named tensors at S recorded steps, tensors in forward order."""

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    """(S,) optimizer steps, ascending."""
    stats: Mapping[str, Array]
    """Statistic name to (S, N) values, NaN if that tensor was not recorded at that step.

    The names are those of `STATISTICS`; `updates` has `abs_mean`, `weight_abs_mean` and `abs_max`.
    """
    samples: Array | None = None
    """(S, N, K) some elements of each tensor, always the same ones; None if not recorded."""
    tags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Tensor name to its roles: `bias`, `norm`, `head`, `backbone`, `pretrained`."""
    skipped: NDArray[np.bool_] | None = None
    """(S,) steps that the gradient scaler of mixed precision skipped; None: none."""
    lr: Array | None = None
    """(S,) largest learning rate of the optimizer at the step; None: not recorded."""

    def stat(self, name: str) -> Array:
        """Returns the (S, N) array of a statistic, all NaN if it was not recorded."""
        empty = np.full((len(self.steps), len(self.names)), np.nan)
        return self.stats.get(name, empty)

    def columns(self, columns: Sequence[int]) -> TensorSeries:
        """Returns the series of some of its tensors, by position."""
        chosen = list(columns)
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            stats={name: values[:, chosen] for name, values in self.stats.items()},
            samples=None if self.samples is None else self.samples[:, chosen],
        )

    def tagged(self, name: str, *tags: str) -> bool:
        """Returns whether the tensor `name` has one of `tags`."""
        return not self.tags.get(name, frozenset()).isdisjoint(tags)

    @classmethod
    def of(
        cls, tensors: Mapping[str, Mapping[int, NDArray[np.floating]]], tags: Mapping[str, frozenset[str]] | None = None
    ) -> TensorSeries:
        """Returns the series of complete tensors: name to optimizer step to values of any shape."""
        steps = sorted({step for saved in tensors.values() for step in saved})
        shape = (len(steps), len(tensors))
        stats = {name: np.full(shape, np.nan) for name in STATISTICS}
        samples = np.full((*shape, SAMPLE_SIZE), np.nan)
        for column, saved in enumerate(tensors.values()):
            for step, values in saved.items():
                row = steps.index(step)
                flat = np.asarray(values, dtype=np.float64).ravel()
                for name, value in describe(flat).items():
                    stats[name][row, column] = value
                if flat.size:
                    samples[row, column] = flat[sample_positions(flat.size, SAMPLE_SIZE)]
        return cls(tuple(tensors), np.asarray(steps, dtype=np.int64), stats, samples, tags or {})


def sample_positions(num_elements: int, count: int) -> NDArray[np.int64]:
    """Returns `count` fixed positions spread over a flat tensor, with repetitions if it has fewer elements.

    Multiples of the golden ratio; even spacing would hit the same corner of every 3 x 3 kernel.
    """
    share = np.arange(count) * 0.6180339887498949 % 1.0
    return (share * num_elements).astype(np.int64)


def describe(flat: Array) -> dict[str, float]:
    """Returns the `STATISTICS` of a flat array; {} for an empty one."""
    if not flat.size:
        return {}
    size = np.abs(flat)
    with np.errstate(invalid="ignore", over="ignore"):
        p5, p95 = np.percentile(flat, (5, 95))
        return {
            "mean": float(flat.mean()),
            "abs_mean": float(size.mean()),
            "abs_max": float(np.nan if np.isnan(size).any() else size.max()),
            "var": float(flat.var()),
            "zero_fraction": float(np.mean(flat == 0)),
            "p5": float(p5),
            "p95": float(p95),
        }


@dataclass(frozen=True)
class NodeActivity:
    """How often each node of one activation layer was in its working range.

    A node is a channel of a (N, C, H, W) activation and a feature of a (N, C) one.
    """

    kind: str
    """`relu`, `tanh` or `sigmoid`."""
    inside_percent: Array
    """(C,) percent of the node's inputs inside (low, high); for `relu`, above 0."""
    num_samples: int
    """Number of images counted."""
    low: float = 0.0
    high: float = float("inf")
    mode: str = "train"
    """`eval` if counted in validation, else `train`."""


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of the network's input over the first images of a training."""

    num_images: int
    mean: Array
    """(3,) per channel, after normalisation."""
    std: Array
    """(3,) per channel, after normalisation."""
    minimum: float
    maximum: float
    expected_mean: tuple[float, ...] = ()
    """(3,) mean that the backbone expects, for images in 0..1; () if unknown."""
    expected_std: tuple[float, ...] = ()
    """(3,) standard deviation that the backbone expects; () if unknown."""


@dataclass(frozen=True)
class Predictions:
    """Predictions on images that the model was not trained on."""

    labels: NDArray[np.int64]
    """(N,) true class."""
    probabilities: Array
    """(N, C) softmax."""
    indices: NDArray[np.int64]
    """(N,) index of the image in its split."""
    classes: tuple[str, ...]
    split: str = "test"
    keys: tuple[str, ...] = ()
    """Names of all images of the split; () if unknown."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) the most probable class."""
        return np.argmax(self.probabilities, axis=1).astype(np.int64)

    def key(self, position: int) -> str:
        """Returns the name of the image behind row `position`."""
        index = int(self.indices[position])
        return self.keys[index] if 0 <= index < len(self.keys) else f"{self.split} image {index}"

    def class_name(self, number: int) -> str:
        """Returns the name of class `number`."""
        return self.classes[number] if number < len(self.classes) else str(number)


@dataclass(frozen=True)
class ImageHashes:
    """Perceptual hashes of the images of each split, and the unreadable images."""

    hashes: Mapping[str, Mapping[str, int]]
    """Split to image name to 256-bit difference hash."""
    bad: Mapping[str, str] = field(default_factory=dict)
    """Image name to the reason why it cannot be read."""
    num_images: int = 0
    """Number of images of the data set, of which only some may have been hashed."""


@dataclass(frozen=True)
class SystemSeries:
    """T snapshots of the machine, about one every 500 ms, in percent of what the job may use."""

    times_s: Array
    """(T,) Unix time in seconds."""
    cpu: Array
    """(T, cores) CPU utilisation."""
    io_wait: Array | None = None
    """(T, cores) percent of time waiting for I/O; None on macOS and Windows."""
    memory: Array | None = None
    """(T,) memory used."""
    gpu: Array | None = None
    """(T, GPUs) utilisation; None: no GPU."""
    gpu_memory: Array | None = None
    """(T, GPUs) memory used."""
    network: Mapping[str, Array] = field(default_factory=dict)
    """Name to (T,) bytes a second."""
    disk: Mapping[str, Array] = field(default_factory=dict)
    """Name to (T,) bytes a second."""


PARTS = ("data", "forward", "backward", "optimizer", "callbacks", "other")
"""Parts of a training step's time; they add up to all of it."""


PHASES = ("setup", "train", "validation", "test", "other")
"""Phases of a run: `setup` lasts until the first of the others, `other` is between and after them."""


@dataclass(frozen=True)
class StepTimes:
    """Duration of each training step and of its parts, in seconds."""

    steps: NDArray[np.int64]
    """(S,) batches, counted from 0 over the training."""
    parts: Mapping[str, Array]
    """One of `PARTS` to (S,) seconds."""
    epochs: NDArray[np.int64]
    """(S,) epoch of the step."""
    ends_s: Array
    """(S,) end of the step, Unix time in seconds."""
    phases_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the run, one of `PHASES` to seconds."""

    @property
    def total(self) -> Array:
        """(S,) seconds of the step, waiting for data included."""
        return np.sum([self.parts[name] for name in PARTS if name in self.parts], axis=0)
