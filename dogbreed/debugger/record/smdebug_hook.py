"""SmdebugHook: smdebug's own hook as a callback; `smdebug.trials.create_trial` reads what it writes.

smdebug's hook writes files and reads its configuration; the callback decides when a step begins and when a tensor is
ready. This fixes the failures of plain smdebug under Lightning: sanity checks and validation counted as steps,
gradients from before the all-reduce, parameters unfrozen later, functional losses, bfloat16, inputs of in-place ReLUs
recorded after they are overwritten, a second `fit`, and an existing folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dogbreed.debugger import files
from dogbreed.debugger.record.network import activation_layers, is_compiled, root_module
from dogbreed.debugger.record.smdebug_writer import SmdebugWriter
from dogbreed.debugger.settings import SmdebugSettings
from dogbreed.errors import UserError, did_you_mean

COLLECTIONS = (
    *("weights", "biases", "gradients", "losses", "all"),
    *("relu_input", "relu_output", "tanh_input", "sigmoid_input"),
)
"""Supported collections; those of activation layers contain all layers of that kind."""

_CONFIG = "/opt/ml/input/config/debughookconfig.json"
_CONFIG_VARIABLE = "SMDEBUG_CONFIG_FILE_PATH"


class SmdebugHook(pl.Callback):
    """Writes tensors in smdebug's layout into `debug-output` of the run's folder.

    A hook configuration of a SageMaker training job (`debughookconfig.json`) takes precedence, including its path. A
    step is an optimizer step; validation losses are steps of mode EVAL. Recording whole tensors is slow and needs much
    space, so it is off by default.

    Args:
        folder: The run's folder.
        save_interval: Optimizer steps between two saved ones.
        collections: Names in `COLLECTIONS`.
        reductions: smdebug's reductions (min, max, mean, std, variance, abs_mean, ...) in place of whole tensors.

    Raises:
        UserError: smdebug cannot be imported, or a collection is unknown.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        save_interval: int = SmdebugSettings.save_interval,
        collections: Sequence[str] = ("weights", "gradients", "losses"),
        reductions: Sequence[str] = (),
    ) -> None:
        for name in collections:
            if name not in COLLECTIONS:
                raise UserError(f"debugger.smdebug.collections={name}{did_you_mean(name, COLLECTIONS)}")
        require_smdebug()
        self.folder = Path(folder)
        self.save_interval = save_interval
        self.collections = tuple(collections)
        self.reductions = tuple(reductions)
        self._writer: SmdebugWriter | None = None
        self._root: nn.Module | None = None
        self._handles: list[Any] = []
        self._compiled = False
        self._step = -1
        self._only_losses = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Creates the hook; a second fit continues with that of the first."""
        if not trainer.is_global_zero:
            return
        self._root = root_module(pl_module)
        self._compiled = is_compiled(pl_module)
        self._step = -1
        if self._writer is None:
            self._writer = SmdebugWriter(self._make())

    def _make(self) -> Any:
        from smdebug.core.reduction_config import ReductionConfig
        from smdebug.core.save_config import SaveConfig
        from smdebug.pytorch import Hook

        config = Path(os.environ.get(_CONFIG_VARIABLE, _CONFIG))
        if config.is_file():
            local = json.loads(config.read_text(encoding="utf-8")).get("LocalPath", "/opt/ml/output/tensors")
            shutil.rmtree(local, ignore_errors=True)
            return Hook.create_from_json_file(str(config))
        out = self.folder / files.DEBUG_OUTPUT
        shutil.rmtree(out, ignore_errors=True)
        hook = Hook(
            out_dir=str(out),
            save_config=SaveConfig(save_interval=self.save_interval),
            reduction_config=ReductionConfig(**self._reduction_lists()) if self.reductions else None,
            include_collections=list(self.collections),
        )
        assert self._root is not None
        for name in self.collections:
            kind, _, side = name.partition("_")
            layers = [layer for layer, (_, found) in activation_layers(self._root).items() if found == kind]
            if side and layers:
                hook.get_collection(name).include([rf"^{re.escape(layer)}_{side}_[0-9]+$" for layer in layers])
            elif side:
                hook.include_collections.remove(name)  # smdebug rejects an empty collection
        return hook

    def _reduction_lists(self) -> dict[str, list[str]]:
        absolute = [name.removeprefix("abs_") for name in self.reductions if name.startswith("abs_")]
        return {"reductions": [r for r in self.reductions if not r.startswith("abs_")], "abs_reductions": absolute}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins a step with the first of its accumulated batches."""
        if self._writer is None or self._root is None or trainer.global_step == self._step:
            return
        self._step = int(trainer.global_step)
        saved = self._writer.begin("train")
        if not saved:
            return
        self._only_losses = saved == {"losses"}
        if not self._only_losses:
            for name, parameter in self._root.named_parameters():
                self._writer.save(f"{_name(self._root)}_{name}", _readable(parameter))
        if not self._compiled and not saved <= set(_PARAMETERS):
            self._add_hooks(self._root, self._writer)

    def _add_hooks(self, root: nn.Module, writer: SmdebugWriter) -> None:
        """Adds hooks to all layers for this step; inputs are read before the layer can overwrite them."""
        for name, module in root.named_modules():

            def before(_: nn.Module, inputs: Any, name: str = name) -> None:
                writer.save_inputs(name or _name(root), _readable(inputs))

            def after(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                writer.save_outputs(name or _name(root), _readable(output))

            self._handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Saves gradients as the optimizer sees them: reduced over processes, accumulated, unscaled."""
        if self._writer is not None and self._writer.is_open and self._root is not None and not self._only_losses:
            for name, parameter in self._root.named_parameters():
                if parameter.grad is not None:
                    self._writer.save_gradient(f"{_name(self._root)}_{name}", _readable(parameter.grad))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves the loss and ends the step with the last of its accumulated batches."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._writer is None or not self._writer.is_open or trainer.global_step == self._step:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._writer.save_outputs("train_loss", _readable(loss * trainer.accumulate_grad_batches))
        self._writer.end()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the validation loss, independent of the interval, because there is one per validation."""
        loss = trainer.callback_metrics.get("val/loss")
        if self._writer is not None and not trainer.sanity_checking and loss is not None:
            self._writer.save_validation_loss(_readable(loss.reshape(1)))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records the end, so that readers do not wait for more."""
        if self._writer is not None:
            self._writer.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the files."""
        self.on_train_end(trainer, pl_module)


_PARAMETERS = ("weights", "biases", "gradients", "losses")
"""Collections that need no hook on a layer."""


def _name(root: nn.Module) -> str:
    """Returns smdebug's name of the network, the prefix of its parameters."""
    return type(root).__name__


def _readable(value: Any) -> Any:
    """Returns tensors as smdebug can write them: bfloat16 and half precision as float32."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    return type(value)(map(_readable, value)) if type(value) in (tuple, list) else value


def require_smdebug() -> None:
    """Checks that smdebug can be used.

    Raises:
        UserError: It is not installed, or protobuf or numpy is incompatible.
    """
    try:
        import numpy as np
        import smdebug.pytorch  # noqa: F401
    except (ImportError, TypeError) as error:  # protobuf 4 and later raise TypeError
        raise UserError(f"smdebug cannot be imported ({error}): pip install 'dogbreed[debug]'") from error
    if tuple(map(int, np.__version__.split(".")[:2])) >= (2, 3):
        raise UserError(f"smdebug cannot write with numpy {np.__version__}: pip install 'dogbreed[debug]'")
