"""Generated dog breeds: images without network or disk, drawn from their keys.

    demo://?classes=8&train=60&valid=20&test=20&size=32

Each breed has a coat colour, a coat pattern and a build. Breeds share each of the three with others, so no single one
identifies a breed; position, scale, rotation, light, background, distractors and noise are random. Counts are images
per class; a split of 0 images does not exist, and is made from train like any missing split.
"""

from __future__ import annotations

import colorsys
import math
import random
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dogbreed.errors import UserError, did_you_mean
from dogbreed.storage.base import ImageError, ObjectBody, ObjectInfo

Floats = NDArray[np.floating[Any]]

_PATTERNS = ("Spotted", "Brindle", "Piebald", "Plain", "Ticked", "Banded", "Saddled", "Ringed")
_BUILDS = ("terrier", "hound", "spaniel", "mastiff", "collie", "setter", "pinscher", "spitz", "retriever", "poodle")
_LIMITS = {"classes": (2, 80), "train": (1, 10_000), "valid": (0, 10_000), "test": (0, 10_000), "size": (16, 1024)}


class _Outline(NamedTuple):
    elongation: float
    """Length over height."""
    squareness: float
    """Exponent of the superellipse: 2 is an ellipse, smaller is pointed, larger is boxy."""


class _Breed(NamedTuple):
    """What all images of a breed share."""

    folder: str
    hue: float
    """Of the coat, on the scale 0 to 1."""
    pattern: int
    outline: _Outline


def _breed(number: int) -> _Breed:
    """Returns breed `number`, counted from 0; neighbours share a colour or a build, never both."""
    pattern = number % len(_PATTERNS)
    build = (pattern * 3 + number // len(_PATTERNS)) % len(_BUILDS)
    hue = (number % 4) / 4 + number // 4 * 0.077
    folder = f"{number + 1:03d}.{_PATTERNS[pattern]}_{_BUILDS[build]}"
    return _Breed(folder, hue % 1.0, pattern, _Outline(0.8 + 0.18 * build, (2.0, 4.0, 1.3)[build % 3]))


@dataclass(frozen=True)
class DemoStore:
    """Images of generated breeds."""

    url: str
    classes: int = 8
    train: int = 60
    """Images per class."""
    valid: int = 20
    """Images per class."""
    test: int = 20
    """Images per class."""
    size: int = 32
    """Height and width, px."""

    @classmethod
    def from_url(cls, url: str) -> DemoStore:
        """Returns the store for `demo://?classes=8&train=60`; missing settings keep their default.

        Raises:
            UserError: an unknown setting, or a value out of range.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.netloc or parts.path.strip("/"):
            raise UserError(f"data.url={url!r}: type demo:// or demo://?classes=8&train=60&valid=20&test=20&size=32")
        settings: dict[str, int] = {}
        for name, value in urllib.parse.parse_qsl(parts.query, keep_blank_values=True):
            if name not in _LIMITS:
                raise UserError(f"data.url={url!r}: no setting {name!r}{did_you_mean(name, _LIMITS)}")
            least, most = _LIMITS[name]
            if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
                raise UserError(f"data.url={url!r}: {name}={value} must be a whole number from {least} to {most}")
            settings[name] = int(value)
        return cls(url, **settings)

    def list_objects(self) -> Iterator[ObjectInfo]:
        """Yields the images; their size in bytes is an estimate."""
        for split in ("train", "valid", "test"):
            for number in range(self.classes):
                folder = _breed(number).folder
                for image in range(getattr(self, split)):
                    yield ObjectInfo(f"{split}/{folder}/{image:04d}.jpg", self.size**2, f"{self.size}px")

    def read(self, key: str) -> bytes | None:
        """Returns None: there are no objects but the images."""
        return None

    async def fetch(self, key: str) -> ObjectBody:
        """Returns the JPEG of a key, always the same bytes."""
        number = key.split("/")[1].partition(".")[0] if key.count("/") == 2 else ""
        if not number.isdigit() or not 1 <= int(number) <= self.classes:
            raise ImageError("no such generated image")
        image = draw(_breed(int(number) - 1), self.size, random.Random(key))
        return ObjectBody(simplejpeg.encode_jpeg(image, quality=88), "")

    def fork_is_safe(self) -> bool:
        """Returns True: the store has no state."""
        return True


def draw(breed: _Breed, size: int, rng: random.Random) -> NDArray[np.uint8]:
    """Returns an image of the breed, uint8 (size, size, 3); all randomness comes from `rng`."""
    grain = np.random.default_rng(rng.getrandbits(64))
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (2.0 / size) - 1.0
    canvas = _background(x, y, rng)
    for _ in range(rng.randint(1, 3)):
        other, _, _ = _body(x, y, rng, rng.uniform(0.1, 0.25), _Outline(rng.uniform(0.6, 1.6), 2.0))
        canvas += other[..., None] * (_colour(rng.random(), 0.6, rng.uniform(0.3, 0.9)) - canvas)
    body, along, across = _body(x, y, rng, rng.uniform(0.4, 0.7), breed.outline)
    hue = breed.hue + rng.gauss(0.0, 0.03)
    coat, marks = _colour(hue, 0.65, rng.uniform(0.55, 0.95)), _colour(hue + 0.08, 0.5, rng.uniform(0.1, 0.3))
    pattern = _pattern(breed.pattern, along, across, rng)[..., None]
    canvas += body[..., None] * (coat + pattern * (marks - coat) - canvas)
    canvas = (canvas - 0.5) * rng.uniform(0.7, 1.1) + 0.5 + rng.uniform(-0.1, 0.1)
    canvas += grain.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(0.02, 0.08)
    return (canvas.clip(0.0, 1.0) * 255).astype(np.uint8)


def _background(x: Floats, y: Floats, rng: random.Random) -> Floats:
    """Returns a gradient between two colours, float32 (H, W, 3), 0 to 1."""
    one, other = (_colour(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.9)) for _ in range(2))
    turn, waves = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 3.0)
    ramp = 0.5 + 0.5 * np.sin(waves * (math.cos(turn) * x + math.sin(turn) * y) + rng.uniform(0, 6))
    return one + ramp[..., None] * (other - one)


def _body(x: Floats, y: Floats, rng: random.Random, radius: float, outline: _Outline) -> tuple[Floats, Floats, Floats]:
    """Returns a soft mask (H, W), 0 to 1, at a random position, and the coordinates along and across the body."""
    turn = rng.uniform(-0.5, 0.5)
    room = 1.0 - radius
    dx, dy = x - rng.uniform(-room, room), y - rng.uniform(-room, room)
    stretch = math.sqrt(outline.elongation)
    along = (math.cos(turn) * dx + math.sin(turn) * dy) / (radius * stretch)
    across = (math.cos(turn) * dy - math.sin(turn) * dx) / (radius / stretch)
    edge = np.abs(along) ** outline.squareness + np.abs(across) ** outline.squareness
    return ((1.0 - edge) * 4.0 + 0.5).clip(0.0, 1.0), along, across


def _pattern(pattern: int, along: Floats, across: Floats, rng: random.Random) -> Floats:
    """Returns the strength of the coat's markings, float32 (H, W), 0 to 1."""
    shift, pace = rng.uniform(0, 2 * math.pi), rng.uniform(0.85, 1.15)
    waves = {
        0: lambda: np.sin(7 * pace * along + shift) * np.sin(7 * pace * across + shift) - 0.2,
        1: lambda: np.sin(9 * pace * along + shift),
        2: lambda: np.sin(3 * pace * along + shift) * np.cos(3 * pace * across + shift),
        3: lambda: np.full_like(along, -1.0),
        4: lambda: np.sin(14 * pace * along + shift) * np.sin(14 * pace * across + shift) - 0.3,
        5: lambda: np.sin(8 * pace * across + shift),
        6: lambda: -across - 0.1,
        7: lambda: np.sin(9 * pace * np.hypot(along, across) + shift),
    }[pattern]()
    return (waves * 4.0 + 0.5).clip(0.0, 1.0)


def _colour(hue: float, saturation: float, value: float) -> Floats:
    """Returns an RGB colour, float32 (3,), 0 to 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32)
