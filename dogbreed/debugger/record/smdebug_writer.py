"""Writes steps through smdebug's own hook; the only file that calls smdebug's private methods.

Tested with smdebug==1.0.34, the last release. Its public methods decide on their own what a step is and when a tensor
is ready, which does not fit Lightning.
"""

from __future__ import annotations

import atexit
from typing import Any

from torch import Tensor


class SmdebugWriter:
    """Saves tensors step by step.

    Args:
        hook: A `smdebug.pytorch.Hook`.
    """

    def __init__(self, hook: Any) -> None:
        self._hook = hook
        self.is_open = False
        """Whether the current step is saved."""
        atexit.unregister(hook._cleanup)  # the end is recorded when a fit ends, not when Python exits

    def begin(self, mode: str) -> set[str]:
        """Begins a step of mode `train` or `eval`; returns the collections that smdebug's configuration saves in it."""
        from smdebug import modes

        hook = self._hook
        if not hook.prepared_collections:
            hook._prepare_collections()
        hook.set_mode(modes.TRAIN if mode == "train" else modes.EVAL)
        hook._increment_step()
        saved = {collection.name for collection in hook._get_collections_to_save_for_step()}
        self.is_open = bool(saved)
        if saved:
            hook._initialize_writers()
            hook.last_saved_step = hook.step
        return saved

    def save(self, name: str, tensor: Tensor) -> None:
        """Saves a tensor in the collections that its name belongs to."""
        self._hook._save_for_tensor(name, tensor)

    def save_gradient(self, name: str, gradient: Tensor) -> None:
        """Saves the gradient of the parameter `name`."""
        self.save(self._hook.GRADIENT_PREFIX + name, gradient)

    def save_inputs(self, layer: str, inputs: Any) -> None:
        """Saves the inputs of a layer."""
        self._hook._write_inputs(layer, inputs)

    def save_outputs(self, layer: str, outputs: Any) -> None:
        """Saves the outputs of a layer, or the loss."""
        self._hook._write_outputs(layer, outputs)

    def save_validation_loss(self, loss: Tensor) -> None:
        """Saves a loss of shape (1,) as a step of mode `eval`, independent of the configured interval."""
        self.begin("eval")
        if not self.is_open:
            self._hook._initialize_writers()
            self.is_open = True
        losses = self._hook.get_collection("losses")
        losses.add_tensor_name("val_loss_output_0")
        self._hook._write_raw_tensor("val_loss_output_0", loss, [losses])
        self.end()

    def end(self) -> None:
        """Ends the step."""
        if self.is_open:
            self._hook._close_writers()
            if not self._hook.exported_collections:
                self._export()
        self.is_open = False

    def close(self) -> None:
        """Ends the step and records the end of the training."""
        self.end()
        self._export()  # the list of the first step does not contain parameters that were unfrozen later
        self._hook._cleanup()

    def _export(self) -> None:
        self._hook.export_collections()
        self._hook.exported_collections = True
