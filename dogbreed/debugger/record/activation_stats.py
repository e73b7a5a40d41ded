"""Statistics of activation layers: their inputs, and how often each node is active."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dogbreed.debugger.record.network import activation_layers
from dogbreed.debugger.record.reductions import statistics
from dogbreed.debugger.series import NodeActivity

_DESCRIBED_IMAGES = 8
"""Images per batch whose activation inputs are described: a layer's variance needs no more."""

RANGES = {
    "relu": (0.0, float("inf")),
    "tanh": (-9.4999, 9.4999),
    "sigmoid": (-23.0, 16.99999),
}
"""Working range by kind of activation: the defaults of the rules DeadRelu and SaturatedActivation."""


class ActivationStats:
    """Watches activation layers through forward hooks, which exist between `watch` and `unwatch`.

    Args:
        root: The network; its layers are named as in it.
        enabled: False watches no layer (hooks would break the graphs of `torch.compile`).
    """

    def __init__(self, root: nn.Module, enabled: bool = True) -> None:
        self.layers = activation_layers(root) if enabled else {}
        self.inputs: dict[str, Tensor] = {}
        """Layer name to the `STATISTICS` of its input, on the device."""
        self.error: Exception | None = None
        """The first error in a hook; nothing is observed after it."""
        self._handles: list[Any] = []
        self._calls: dict[str, int] = {}
        self._active: dict[tuple[str, str, str], tuple[Tensor, int]] = {}

    def watch(self, mode: str, describe_inputs: bool) -> None:
        """Adds hooks that count active nodes for `mode` (`train`, `eval`) and, if asked, describe inputs."""
        self.unwatch()
        for name, (layer, kind) in self.layers.items():

            def observe(_: nn.Module, args: tuple[Any, ...], name: str = name, kind: str = kind) -> None:
                try:
                    if self.error is None and args:
                        self._observe(name, kind, args[0], mode, describe_inputs)
                except Exception as error:  # noqa: BLE001 - this runs inside the network's forward pass
                    self.error = error

            self._handles.append(layer.register_forward_pre_hook(observe))

    def unwatch(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    @torch.no_grad()
    def _observe(self, name: str, kind: str, value: Any, mode: str, describe_inputs: bool) -> None:
        if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point() or not value.numel():
            return
        # A layer may run several times in a forward pass (torchvision's `relu`): each call is recorded separately.
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        full = f"{name}_{call}" if call else name
        value = value.detach()
        if describe_inputs:
            self.inputs[full] = statistics([value[:_DESCRIBED_IMAGES].float()])[0]
        if kind in RANGES:
            low, high = RANGES[kind]
            inside = value > low if high == float("inf") else (value > low) & (value < high)
            # Nodes are channels of (B, C, H, W) and features of (B, C) and (B, tokens, C).
            nodes = inside.movedim(1 if value.ndim == 4 else -1, 0).flatten(1)
            per_node = nodes.float().mean(dim=1) * len(value)
            total, count = self._active.get((full, kind, mode), (torch.zeros_like(per_node), 0))
            self._active[(full, kind, mode)] = (total + per_node, count + len(value))

    def end_forward(self, num_images: int) -> None:
        """Ends a forward pass in validation; removes the hooks once `num_images` images were counted."""
        self._calls.clear()
        counted = [count for (_, _, mode), (_, count) in self._active.items() if mode == "eval"]
        if self._handles and max(counted, default=0) >= num_images:
            self.unwatch()

    def take_activity(self, mode: str) -> dict[str, NodeActivity]:
        """Returns how often each node was active in `mode` (`train`, `eval`) since the last call."""
        result = {}
        for (name, kind, counted_in), (total, count) in list(self._active.items()):
            if counted_in == mode:
                percent = 100 * total.cpu().numpy().astype(np.float64) / max(count, 1)
                result[name] = NodeActivity(kind, percent, count, *RANGES[kind], mode)
                del self._active[(name, kind, counted_in)]
        return result
