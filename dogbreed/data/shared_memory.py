"""Reusable CPU buffers for tensors: the kernel clears every fresh page, which costs more than filling it.

Two pools, one for tensors of this process and one for tensors that workers send to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dogbreed.input_spec import InputSpec

_MAX_FREE = 2
"""Free buffers that a `TensorPool` keeps."""


class TensorPool:
    """Allocates float32 CPU tensors in the memory of earlier ones.

    Memory is reused only after the last tensor that shares it is gone, including views and tensors saved by autograd.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.float32]] = []

    def empty(self, shape: Sequence[int]) -> torch.Tensor:
        """Returns an uninitialised float32 tensor of `shape` on the CPU."""
        size = int(np.prod(shape))
        fitting = [number for number, memory in enumerate(self._free) if memory.size >= size]
        memory = self._free.pop(fitting[0]) if fitting else np.empty(size, dtype=np.float32)
        used = memory[:size].reshape(shape)
        # Only the tensor's storage references this array, so its end is the end of the last tensor.
        weakref.finalize(used, self._release, memory).atexit = False
        return torch.from_numpy(used)

    def normalise(self, images: torch.Tensor, spec: InputSpec) -> torch.Tensor:
        """Returns uint8 `images` (B, 3, H, W) as float32, normalised to the spec's mean and std, on their device."""
        mean, std = (
            torch.tensor(values, device=images.device).mul_(255).view(3, 1, 1) for values in (spec.mean, spec.std)
        )
        pixels = self.empty(images.shape) if images.is_cpu else torch.empty_like(images, dtype=torch.float)
        pixels.copy_(images)
        return pixels.sub_(mean).div_(std)

    def _release(self, memory: NDArray[np.float32]) -> None:
        self._free = [memory, *self._free][:_MAX_FREE]


_FREE, _SENT, _ATTACHED = range(3)
"""State of a shared buffer, stored in its last byte."""

_MAX_BUFFERS = 6
"""Buffers that a worker keeps: those being filled, queued and in use."""


class SharedMemoryPool:
    """Allocates uint8 tensors in memory shared with the receiving process, which must `attach` them."""

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []

    def empty(self, shape: Sequence[int]) -> torch.Tensor:
        """Returns an uninitialised uint8 tensor of `shape`."""
        size = int(np.prod(shape))
        buffer = next((item for item in self._buffers if item[-1] == _FREE and len(item) > size), None)
        if buffer is None:
            buffer = torch.empty(size + 1, dtype=torch.uint8).share_memory_()
            if len(self._buffers) < _MAX_BUFFERS:
                self._buffers.append(buffer)
        buffer[-1] = _SENT
        return buffer[:size].view(*shape)

    def reclaim(self) -> None:
        """Frees buffers that were sent but never attached; called when no batch is in transit."""
        for buffer in self._buffers:
            if buffer[-1] == _SENT:
                buffer[-1] = _FREE


def attach(sent: torch.Tensor) -> torch.Tensor:
    """Returns a tensor from another process's `SharedMemoryPool`; its buffer is freed with the last tensor sharing it.

    A tensor that is not in shared memory, such as a pinned copy, is returned unchanged.
    """
    if not sent.is_shared():
        return sent
    memory = sent.untyped_storage()
    state = torch.empty(0, dtype=torch.uint8).set_(memory, memory.nbytes() - 1, (1,), (1,))
    state.fill_(_ATTACHED)
    used = sent.numpy()
    weakref.finalize(used, state.fill_, _FREE).atexit = False
    return torch.from_numpy(used)
