"""A frozen backbone as fast as this machine runs it, and as exact: chosen by a short trial.

Nothing here changes what is computed beyond rounding: inference mode, channels_last, batch norm folded into the
convolution before it, and small chunks that stay in the processor's cache; a form whose output differs is not taken.
`python -m benchmarks.sweep plain` measures the plain loop beside it.
"""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dogbreed.models import backbones as backbone
from dogbreed.system import cpu as cores

log = logging.getLogger(__name__)

SAMPLE = 32
"""Images on which the forms are tried."""

_CHUNKS = (4, 8, 16)
"""Images that a processor takes at once; a GPU takes all it is given."""

_ROUNDS = 3
"""Of the trial."""

_FEW = 300
"""Images that are sooner done plainly than a trial is."""

_COMPILE_S = 60.0
"""What `torch.compile` takes, most of it in the C++ compiler; only a pass of ten times that is worth it."""

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""Largest difference to the plain network, as a share of its largest feature."""

Context = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Form:
    """One way to run the network."""

    name: str
    network: Callable[[Tensor], Tensor]
    chunk: int | None
    """Images at once; None: all."""
    context: Context
    """In which the network runs: the trainer's precision."""
    threads: ThreadPoolExecutor | None = None
    """Each takes one chunk after the other; None: torch itself divides each layer among threads."""

    def __call__(self, images: Tensor) -> Tensor:
        """Returns features (B, D) for normalised `images` (B, 3, H, W)."""
        parts = images.split(self.chunk or len(images))
        return torch.cat(list(self.threads.map(self._run, parts) if self.threads else map(self._run, parts)))

    @torch.inference_mode()
    def _run(self, images: Tensor) -> Tensor:
        layout = torch.preserve_format if self.name == "plain" else torch.channels_last
        with self.context():
            return self.network(images.contiguous(memory_format=layout))


@contextmanager
def all_processors() -> Iterator[ThreadPoolExecutor]:
    """Yields a thread for each processor, within which torch starts none: a job among several is given its share, but
    they all wait for this pass. Threads that divide single layers would wait for each other many times an image.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores.count(), initializer=torch.set_num_threads, initargs=(1,)) as threads:
            yield threads
    finally:
        torch.set_num_threads(before)


def trunk(net: nn.Module) -> nn.Module:
    """Returns a copy of `net` that gives what its head would be given: (B, 3, H, W) to (B, D)."""
    (head,) = backbone.head_names(net)
    copied = copy.deepcopy(net).eval().requires_grad_(False)
    vars(copied).pop("forward", None)  # of a network that has run on features: see backbone.accept_features
    copied._forward_hooks.clear()  # those of whoever asks for other answers than the network's own
    _replace(copied, head, nn.Identity())
    return copied


def fastest(plain: nn.Module, images: Tensor, context: Context, num_images: int, threads: ThreadPoolExecutor) -> Form:
    """Returns the form of a trunk that is fastest on this machine, and says so in the log.

    Args:
        plain: As `trunk` gives it, on the device.
        images: A few normalised images (B, 3, H, W) on the device, for the trial.
        context: In which the network runs.
        num_images: How many are to come: compiling has to pay.
        threads: One for each processor.
    """
    reference = Form("plain", plain, None, context)
    if num_images < _FEW:
        return reference
    expected = reference(images)
    network, name = fold(plain).to(memory_format=torch.channels_last), "folded batch norms and channels_last"
    if not _agrees(Form(name, network, None, context)(images), expected):
        network, name = copy.deepcopy(plain).to(memory_format=torch.channels_last), "channels_last"
    ways = [(chunk, threads) for chunk in _CHUNKS] if images.is_cpu else [(None, None)]
    forms = [Form(name, network, chunk, context, pool) for chunk, pool in ways]
    forms = [form for form in forms if _agrees(form(images), expected)] or [reference]
    speed, best = max((speed, number) for number, speed in enumerate(_speeds(forms, images)))
    chosen = forms[best]
    if num_images / speed > 10 * _COMPILE_S and (not images.is_cpu or shutil.which("g++")):
        compiled = replace(chosen, name=f"torch.compile, {chosen.name}", network=torch.compile(chosen.network))
        if _agrees(compiled(images), expected) and (compiled_speed := _speeds([compiled], images)[0]) > speed:
            chosen, speed = compiled, compiled_speed
    at_once = f" by {chosen.chunk}" if chosen.chunk else ""
    kind = str(expected.dtype).removeprefix("torch.")
    log.info("the backbone runs in %s, %s%s: %.0f images/s", kind, chosen.name, at_once, speed)
    return chosen


def fold(net: nn.Module) -> nn.Module:
    """Returns a copy of `net` in eval mode with each batch norm folded into the convolution that stands before it."""
    folded = copy.deepcopy(net)
    before: tuple[str, nn.Module] | None = None
    for name, module in list(folded.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = name, module
        elif isinstance(module, nn.BatchNorm2d):
            if before is not None and before[1].out_channels == module.num_features:
                _replace(folded, before[0], fuse_conv_bn_eval(before[1], module))  # type: ignore[type-var]
                _replace(folded, name, getattr(module, "act", nn.Identity()))  # timm's does both
            before = None
    return folded


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)


def _agrees(found: Tensor, expected: Tensor) -> bool:
    difference = (found.float() - expected.float()).abs().max()
    return bool(difference <= _TOLERANCE.get(expected.dtype, 0.0) * expected.float().abs().max().clamp_min(1e-6))


def _speeds(forms: list[Form], images: Tensor) -> list[float]:
    """Returns images a second of each of `forms`, which have run before: the best of rounds in which all take turns.

    Whatever else the machine does then slows no single form down.
    """
    taken = [[0.0] * _ROUNDS for _ in forms]
    for turn in range(_ROUNDS):
        for form, times in zip(forms, taken, strict=True):
            began = time.perf_counter()
            form(images).flatten()[0].item()  # waits for a GPU
            times[turn] = time.perf_counter() - began
    return [len(images) / min(times) for times in taken]
