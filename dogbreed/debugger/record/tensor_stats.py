"""The light recorder: statistics of gradients, weights, updates and activations, computed where the tensors are.

At a recorded step everything is reduced on the device with fused operations, put into one vector and fetched with
one synchronisation. Gradients are looked at where Lightning has them ready for the optimizer: after the all-reduce
of all processes, after unscaling, before clipping. Nothing draws a random number and nothing is written to the
network, so a training's numbers are the same with and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dogbreed.debugger.record.network import activation_layers
from dogbreed.debugger.series import SAMPLE_SIZE, STATISTICS, NodeActivity, sample_positions

_SAMPLE = 16384
"""Elements of a large tensor that its statistics are those of; its largest one is looked for among all."""

_QUANTILE_SAMPLE = 256
"""Elements of a tensor that its 5th and 95th percentile are estimated from."""

_ACTIVATION_SAMPLES = 8
"""Images of a batch whose activation inputs are described: a layer's variance needs no more."""

UPDATE_STATISTICS = ("abs_mean", "weight_abs_mean", "abs_max")
"""What is recorded of updates: of the update, of the weight before it, and of the update."""

RANGES = {
    "relu": (0.0, float("inf")),
    "tanh": (-9.4999, 9.4999),
    "sigmoid": (-23.0, 16.99999),
}
"""Working range by kind of activation: the defaults of the rules DeadRelu and SaturatedActivation."""


def flat(tensor: Tensor) -> Tensor:
    """Returns all elements in one dimension, in the order they have in memory where that saves a copy."""
    tensor = tensor.detach()
    if tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1)


def some_elements(tensor: Tensor) -> Tensor:
    """Returns up to about `_SAMPLE` elements as float32, evenly spread; small tensors whole."""
    elements = flat(tensor)
    step = max(1, elements.numel() // _SAMPLE)
    # A step that shares no factor with kernel and channel sizes visits every place of a kernel.
    while step > 1 and any(step % prime == 0 for prime in (2, 3, 5, 7)):
        step += 1
    return elements[::step].float()


def _norms(tensors: Sequence[Tensor], order: float) -> Tensor:
    return torch.stack(torch._foreach_norm(list(tensors), order)).float()


def _largest(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the largest absolute value of each tensor, NaN where it has one.

    That is the infinity norm, for which torch takes 330 us on the CPU for 128,000 elements, and for `aminmax` 15.
    """
    if not tensors[0].is_cpu:
        return _norms(tensors, float("inf"))
    low, high = (torch.stack(ends).float() for ends in zip(*(tensor.aminmax() for tensor in tensors), strict=True))
    return torch.maximum(-low, high)


def _sizes(tensors: Sequence[Tensor]) -> Tensor:
    counts = torch.tensor([tensor.numel() for tensor in tensors], dtype=torch.float32)
    return counts.to(tensors[0].device, non_blocking=True)


def statistics(tensors: Sequence[Tensor]) -> Tensor:
    """Returns (N, len(STATISTICS)) float32 on the tensors' device; N tensors of any shape and floating type.

    `abs_max`, and with it NaN, infinity and "all zeros", is that of all elements; the others are those of
    `some_elements`.
    """
    largest = _largest([flat(tensor) for tensor in tensors])
    some = [some_elements(tensor) for tensor in tensors]
    size = _sizes(some)
    mean = torch.stack([tensor.sum() for tensor in some]) / size
    variance = (_norms(some, 2) ** 2 / size - mean**2).clamp_min(0)
    zeros = 1 - torch.stack([tensor.count_nonzero() for tensor in some]) / size
    zeros = torch.where(largest == 0, torch.ones_like(zeros), zeros.clamp_max(1 - 1e-6))
    few = torch.stack([tensor[_positions(tensor.numel(), _QUANTILE_SAMPLE, tensor.device)] for tensor in some])
    ordered = few.sort(dim=1).values
    low, high = ordered[:, _QUANTILE_SAMPLE // 20], ordered[:, _QUANTILE_SAMPLE - 1 - _QUANTILE_SAMPLE // 20]
    return torch.stack((mean, _norms(some, 1) / size, largest, variance, zeros, low, high), dim=1)


_cache: dict[tuple[int, int, torch.device], Tensor] = {}


def _positions(num_elements: int, count: int, device: torch.device) -> Tensor:
    key = (num_elements, count, device)
    if key not in _cache:
        _cache[key] = torch.from_numpy(sample_positions(num_elements, count)).to(device)
    return _cache[key]


def samples(tensors: Sequence[Tensor]) -> Tensor:
    """Returns (N, SAMPLE_SIZE) float32: always the same elements of each tensor."""
    elements = [flat(tensor) for tensor in tensors]
    return torch.stack([e[_positions(e.numel(), SAMPLE_SIZE, e.device)].float() for e in elements])


class TensorStats:
    """Collects what one recorded step needs; `fetch` returns it as plain numbers.

    Args:
        root: The network; its parameters are known by their names in it, the frozen ones too.
        watch_activations: Whether hooks may be put on activation layers (not under `torch.compile`).
    """

    def __init__(self, root: nn.Module, watch_activations: bool = True) -> None:
        self.parameters = dict(root.named_parameters())
        self.layers = activation_layers(root) if watch_activations else {}
        self._pending: list[tuple[str, list[str], tuple[str, ...], Tensor]] = []
        self._before: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        self._calls: dict[str, int] = {}
        self._inputs: dict[str, Tensor] = {}
        self._active: dict[tuple[str, str, str], tuple[Tensor, int]] = {}

    def watch(self, mode: str, describe_inputs: bool) -> None:
        """Puts hooks on the activation layers, until `unwatch`."""
        self._calls.clear()
        for name, (layer, kind) in self.layers.items():

            def look(_: nn.Module, args: tuple[Any, ...], name: str = name, kind: str = kind) -> None:
                self._look(name, kind, args[0], mode, describe_inputs)

            self._handles.append(layer.register_forward_pre_hook(look))

    def unwatch(self) -> None:
        """Takes the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    @torch.no_grad()
    def _look(self, name: str, kind: str, value: Any, mode: str, describe_inputs: bool) -> None:
        if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point():
            return
        # One layer may be called several times in a forward pass (torchvision's `relu`): each call is its own.
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        full = f"{name}_{call}" if call else name
        value = value.detach()
        if describe_inputs:
            self._inputs[full] = value[:_ACTIVATION_SAMPLES].float()
            self._inputs[full] = statistics([self._inputs[full]])[0]
        if kind in RANGES:
            low, high = RANGES[kind]
            inside = value > low if high == float("inf") else (value > low) & (value < high)
            per_node = inside.transpose(0, 1).flatten(1).float().mean(dim=1) * len(value)
            total, count = self._active.get((full, kind, mode), (torch.zeros_like(per_node), 0))
            self._active[(full, kind, mode)] = (total + per_node, count + len(value))

    def restart_calls(self, enough: int) -> None:
        """A forward pass is over; the hooks go once `enough` images were counted."""
        self._calls.clear()
        if (
            self._handles
            and max((count for (_, _, mode), (_, count) in self._active.items() if mode == "eval"), default=0) >= enough
        ):
            self.unwatch()

    def trained(self) -> dict[str, nn.Parameter]:
        """Returns the parameters that have a gradient just now: ones unfrozen later appear when they are."""
        return {name: p for name, p in self.parameters.items() if p.requires_grad and p.grad is not None and p.numel()}

    @torch.no_grad()
    def before_step(self) -> None:
        """Looks at the gradients and remembers some of each weight; the optimizer is about to step."""
        parameters = self.trained()
        if not parameters:
            return
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        self._pending.append(("gradients", list(parameters), STATISTICS, statistics(gradients)))
        self._before = {name: some_elements(p).clone() for name, p in parameters.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Looks at the weights and how far they moved; the optimizer has stepped."""
        if not self._before:
            return
        names = list(self._before)
        now = [self.parameters[name].detach() for name in names]
        before = [self._before[name] for name in names]
        moved = torch._foreach_sub([some_elements(tensor) for tensor in now], before)
        size = _sizes(before)
        columns = (_norms(moved, 1) / size, _norms(before, 1) / size, _largest(moved))
        self._pending.append(("updates", names, UPDATE_STATISTICS, torch.stack(columns, dim=1)))
        self._pending.append(("weights", names, STATISTICS, statistics(now)))
        self._pending.append(("samples", names, (), samples(now)))
        self._before = {}

    def fetch(
        self, scalars: Sequence[Tensor]
    ) -> tuple[list[tuple[str, list[str], dict[str, list[float]]]], list[float]]:
        """Returns ([(collection, names, statistic to values)], values of `scalars`), with one synchronisation.

        For the collection `samples` the statistic is the element's number.
        """
        if self._inputs:
            self._pending.append(
                ("activation_inputs", list(self._inputs), STATISTICS, torch.stack(list(self._inputs.values())))
            )
        blocks = [block.reshape(-1) for _, _, _, block in self._pending]
        heads = [scalar.detach().reshape(1).float() for scalar in scalars]
        if not blocks and not heads:
            return [], []
        device = (blocks or heads)[0].device
        values = torch.cat([part.to(device, torch.float32) for part in (*blocks, *heads)]).cpu().numpy()
        result = []
        at = 0
        for collection, names, stats, block in self._pending:
            table = values[at : at + block.numel()].reshape(block.shape)
            at += block.numel()
            labels = stats or tuple(str(i) for i in range(table.shape[1]))
            result.append((collection, names, {label: table[:, i].tolist() for i, label in enumerate(labels)}))
        self._pending.clear()
        self._inputs.clear()
        return result, values[at:].tolist()

    def take_activity(self, mode: str) -> dict[str, NodeActivity]:
        """Returns how often each node fired in `mode` (`train`, `eval`) since the last call, and starts anew."""
        result = {}
        for (name, kind, counted_in), (total, count) in list(self._active.items()):
            if counted_in == mode:
                percent = 100 * total.cpu().numpy().astype(np.float64) / max(count, 1)
                result[name] = NodeActivity(kind, percent, count, *RANGES[kind], mode)
                del self._active[(name, kind, counted_in)]
        return result
