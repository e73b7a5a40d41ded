"""The fastest runtime of a frozen backbone that gives the same features.

Only rounding may differ: inference mode, channels_last, batch norms folded into the convolutions before them, and on
CPUs one thread per chunk of images instead of threads within each layer. A runtime whose features differ by more
is rejected. `python -m benchmarks.sweep plain` compares it with a plain loop.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dogbreed.models.heads import head_names
from dogbreed.system.cpu import cpu_count

log = logging.getLogger(__name__)

_CHUNK = 8
"""Images per thread and forward pass on CPUs, so that activations stay in the processor's cache."""

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""Largest difference from the plain network, relative to the largest feature."""

Context = Callable[[], AbstractContextManager[None]]
"""Makes the context that the network runs in, such as autocast."""


@dataclass(frozen=True)
class BackboneRuntime:
    """One way to run a backbone."""

    name: str
    network: Callable[[Tensor], Tensor]
    context: Context
    memory_format: torch.memory_format = torch.preserve_format
    threads: ThreadPoolExecutor | None = None
    """Runs chunks of images in parallel; None: one pass for the whole batch."""

    def __call__(self, images: Tensor) -> Tensor:
        """Returns features (B, D) of normalised `images` (B, 3, H, W)."""
        if self.threads is None:
            return self._run(images)
        return torch.cat(list(self.threads.map(self._run, images.split(_CHUNK))))

    @torch.inference_mode()
    def _run(self, images: Tensor) -> Tensor:
        with self.context():
            return self.network(images.contiguous(memory_format=self.memory_format))


@contextmanager
def thread_per_core() -> Iterator[ThreadPoolExecutor]:
    """Yields one thread per core, and keeps torch from starting more threads until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as threads:
            yield threads
    finally:
        torch.set_num_threads(before)


def feature_network(net: nn.Module) -> nn.Module:
    """Returns a frozen copy of `net` in eval mode without its linear head, (B, 3, H, W) to (B, D)."""
    (head,) = head_names(net)
    copied = copy.deepcopy(net).eval().requires_grad_(False)
    _replace(copied, head, nn.Identity())
    return copied


def create_runtime(plain: nn.Module, images: Tensor, context: Context, threads: ThreadPoolExecutor) -> BackboneRuntime:
    """Returns the fastest runtime whose features agree with those of `plain`, from `feature_network`.

    Features are compared on a few normalised `images` (B, 3, H, W); `threads`, one per core, are used on CPUs.
    """
    expected = BackboneRuntime("plain", plain, context)(images)
    pool = threads if images.is_cpu else None
    forms: dict[str, Callable[[nn.Module], nn.Module]] = {
        "folded batch norms, channels_last": fold_batch_norms,
        "channels_last": copy.deepcopy,
    }
    for name, make in forms.items():
        network = make(plain).to(memory_format=torch.channels_last)
        runtime = BackboneRuntime(name, network, context, torch.channels_last, pool)
        if _agrees(runtime(images), expected):
            break
    else:
        runtime = BackboneRuntime("plain", plain, context, threads=pool)
    log.info("the backbone runs in %s, %s", str(expected.dtype).removeprefix("torch."), runtime.name)
    return runtime


def fold_batch_norms(net: nn.Module) -> nn.Module:
    """Returns a copy of `net` (in eval mode) with each batch norm folded into the convolution directly before it."""
    folded = copy.deepcopy(net)
    before: tuple[str, nn.Module] | None = None
    for name, module in list(folded.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = name, module
        elif isinstance(module, nn.BatchNorm2d):
            if before is not None and before[1].out_channels == module.num_features:
                _replace(folded, before[0], fuse_conv_bn_eval(before[1], module))  # type: ignore[type-var]
                _replace(folded, name, getattr(module, "act", nn.Identity()))  # timm's norms contain the activation
            before = None
    return folded


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)


def _agrees(features: Tensor, expected: Tensor) -> bool:
    difference = (features.float() - expected.float()).abs().max()
    return bool(difference <= _TOLERANCE.get(expected.dtype, 0.0) * expected.float().abs().max().clamp_min(1e-6))
