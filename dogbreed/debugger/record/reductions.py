"""Statistics of tensors, computed on their device without synchronising."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dogbreed.debugger.series import SAMPLE_SIZE, sample_positions

_SAMPLE = 16384
"""Elements of a large tensor from which its statistics are computed; `abs_max` uses all elements."""

_QUANTILE_SAMPLE = 256
"""Elements of a tensor from which its 5th and 95th percentile are estimated."""


def flat(tensor: Tensor) -> Tensor:
    """Returns all elements in one dimension, in memory order if that saves a copy."""
    tensor = tensor.detach()
    if tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1)


def sampled(tensor: Tensor) -> Tensor:
    """Returns up to about `_SAMPLE` evenly spread elements as float32; all elements of small tensors."""
    elements = flat(tensor)
    step = max(1, elements.numel() // _SAMPLE)
    # A step that shares no factor with kernel and channel sizes visits every position of a kernel.
    while step > 1 and any(step % prime == 0 for prime in (2, 3, 5, 7)):
        step += 1
    return elements[::step].float()


def norms(tensors: Sequence[Tensor], order: float) -> Tensor:
    """Returns the (N,) float32 norms of N tensors."""
    return torch.stack(torch._foreach_norm(list(tensors), order)).float()


def abs_max(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the largest absolute value of each tensor, NaN if it contains one."""
    if not tensors[0].is_cpu:
        return norms(tensors, float("inf"))
    # The infinity norm is slow on the CPU, `aminmax` is not.
    low, high = (torch.stack(ends).float() for ends in zip(*(tensor.aminmax() for tensor in tensors), strict=True))
    return torch.maximum(-low, high)


def sizes(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the (N,) float32 numbers of elements, on the tensors' device."""
    counts = torch.tensor([tensor.numel() for tensor in tensors], dtype=torch.float32)
    return counts.to(tensors[0].device, non_blocking=True)


def statistics(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the `STATISTICS` of N tensors of any shape and floating dtype as (N, len(STATISTICS)) float32.

    `abs_max`, and with it NaN, infinity and "all zeros", covers all elements; the other statistics cover those of
    `sampled`. The result is on the tensors' device.
    """
    largest = abs_max([flat(tensor) for tensor in tensors])
    elements = [sampled(tensor) for tensor in tensors]
    size = sizes(elements)
    means = [tensor.mean() for tensor in elements]
    # The mean is subtracted first: E[x^2] - E[x]^2 loses all digits in float32 if the mean is large.
    variance = norms([e - mean for e, mean in zip(elements, means, strict=True)], 2) ** 2 / size
    zeros = 1 - torch.stack([tensor.count_nonzero() for tensor in elements]) / size
    zeros = torch.where(largest == 0, torch.ones_like(zeros), zeros.clamp_max(1 - 1e-6))
    few = torch.stack([e[_positions(e.numel(), _QUANTILE_SAMPLE, e.device)] for e in elements])
    ordered = few.sort(dim=1).values
    low, high = ordered[:, _QUANTILE_SAMPLE // 20], ordered[:, _QUANTILE_SAMPLE - 1 - _QUANTILE_SAMPLE // 20]
    columns = (torch.stack(means), norms(elements, 1) / size, largest, variance, zeros, low, high)
    return torch.stack(columns, dim=1)


_position_cache: dict[tuple[int, int, torch.device], Tensor] = {}


def _positions(num_elements: int, count: int, device: torch.device) -> Tensor:
    key = (num_elements, count, device)
    if key not in _position_cache:
        _position_cache[key] = torch.from_numpy(sample_positions(num_elements, count)).to(device)
    return _position_cache[key]


def samples(tensors: Sequence[Tensor]) -> Tensor:
    """Returns (N, SAMPLE_SIZE) float32: always the same elements of each tensor."""
    elements = [flat(tensor) for tensor in tensors]
    return torch.stack([e[_positions(e.numel(), SAMPLE_SIZE, e.device)].float() for e in elements])
