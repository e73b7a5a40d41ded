"""Statistics of gradients, weights and updates, computed on the tensors' device.

At a recorded step everything is reduced on the device with fused operations, put into one vector and fetched with
one synchronisation. Nothing draws random numbers and nothing is written to the network, so recording does not change
a training's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dogbreed.debugger.record.activation_stats import ActivationStats
from dogbreed.debugger.record.record_writer import Block
from dogbreed.debugger.record.reductions import abs_max, norms, sampled, samples, sizes, statistics
from dogbreed.debugger.series import STATISTICS

UPDATE_STATISTICS = ("abs_mean", "weight_abs_mean", "abs_max")
"""Statistics of an update: mean absolute update, mean absolute weight before it, largest absolute update."""


class TensorStats:
    """Statistics of a network's parameters around an optimizer step.

    Gradients are read where Lightning has them ready for the optimizer: after the all-reduce of all processes and
    unscaling, before clipping.

    Args:
        root: The network, which names the parameters; frozen ones are included.
        watch_activations: Whether activation layers are recorded too, see `ActivationStats`.
    """

    def __init__(self, root: nn.Module, watch_activations: bool = True) -> None:
        self.parameters = dict(root.named_parameters())
        self.activations = ActivationStats(root, watch_activations)
        self._pending: list[tuple[str, list[str], tuple[str, ...], Tensor]] = []
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def before_step(self) -> None:
        """Reads the gradients and remembers sampled weights, right before the optimizer steps."""
        # Parameters that are unfrozen later appear with their first gradient.
        trained = {n: p for n, p in self.parameters.items() if p.requires_grad and p.grad is not None and p.numel()}
        if not trained:
            return
        gradients = [parameter.grad for parameter in trained.values() if parameter.grad is not None]
        self._add("gradients", list(trained), STATISTICS, statistics(gradients))
        self._before = {name: sampled(parameter).clone() for name, parameter in trained.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Reads the weights and their updates, after the optimizer stepped."""
        if not self._before:
            return
        names = list(self._before)
        weights = [self.parameters[name].detach() for name in names]
        before = [self._before[name] for name in names]
        updates = torch._foreach_sub([sampled(tensor) for tensor in weights], before)
        size = sizes(before)
        columns = (norms(updates, 1) / size, norms(before, 1) / size, abs_max(updates))
        self._add("updates", names, UPDATE_STATISTICS, torch.stack(columns, dim=1))
        self._add("weights", names, STATISTICS, statistics(weights))
        self._add("samples", names, (), samples(weights))
        self._before = {}

    def _add(self, collection: str, names: list[str], stats: tuple[str, ...], values: Tensor) -> None:
        """Adds (len(names), len(stats)) values on their device; stats () numbers the columns."""
        self._pending.append((collection, names, stats or tuple(map(str, range(values.shape[1]))), values))

    def fetch(self, scalars: Sequence[Tensor]) -> tuple[list[Block], list[float]]:
        """Returns (statistics added since the last call, values of `scalars`), with one synchronisation."""
        inputs = self.activations.inputs
        if inputs:
            self._add("activation_inputs", list(inputs), STATISTICS, torch.stack(list(inputs.values())))
            inputs.clear()
        parts = [block.reshape(-1) for _, _, _, block in self._pending]
        parts += [scalar.detach().reshape(1) for scalar in scalars]
        if not parts:
            return [], []
        values = torch.cat([part.to(parts[0].device, torch.float32) for part in parts]).cpu().numpy()
        blocks = []
        start = 0
        for collection, names, stats, block in self._pending:
            table = values[start : start + block.numel()].reshape(block.shape)
            start += block.numel()
            blocks.append(Block(collection, names, {name: table[:, i].tolist() for i, name in enumerate(stats)}))
        self._pending.clear()
        return blocks, values[start:].tolist()
