"""TensorDebugger: records what goes on inside a training, and can stop it.

trainer = Trainer(callbacks=[TensorDebugger("outputs/run"), ...])
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from dogbreed.debugger import files
from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.assemble import assemble
from dogbreed.debugger.record.input_images import InputImageStats
from dogbreed.debugger.record.network import is_compiled, parameter_tags, root_module, starting_weights
from dogbreed.debugger.record.record_writer import RecordWriter
from dogbreed.debugger.record.run_settings import describe_run
from dogbreed.debugger.record.tensor_stats import TensorStats
from dogbreed.debugger.recording import Recording
from dogbreed.debugger.rules.evaluate import evaluate

log = logging.getLogger(__name__)

_EVAL_SAMPLES = 256
"""Validation images over which the nodes of activation layers are counted; DeadRelu wants 200."""


class TensorDebugger(pl.Callback):
    """Records gradients, weights, updates, activations, losses and metrics as plain files.

    It never changes a training's numbers; what a recorded step costs is in `benchmarks/debugger.py`. It works with
    parameters that are unfrozen later, a second `fit`, gradient accumulation, mixed precision, DDP (process 0
    records what all have reduced) and `torch.compile` (activations are not recorded then). A step is an optimizer
    step, counted from 0; sanity checks and validation do not count.

    Args:
        folder: The run's folder. What an earlier run left of ours is removed when a training begins at step 0.
        every_n_steps: Optimizer steps between two recorded ones.
        first_steps: Steps at the start that are all recorded.
        activations: Whether activation layers are looked at.
        stop_on: Names of rules that end the training as soon as they find an issue.
        rules: Rules and settings, see `registry.configured_rules`.

    Attributes:
        stopped_by: Name of the rule that ended the training, empty where none did.

    Raises:
        UserError: an unknown rule or setting.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_n_steps: int = 50,
        first_steps: int = 10,
        activations: bool = True,
        stop_on: Sequence[str] = (),
        rules: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.first_steps = first_steps
        self.watch_activations = activations
        self.stop_on = tuple(stop_on)
        self.rules = dict(rules or {})
        evaluate(Recording(), self.rules, self.stop_on)  # a mistake in either is said now, not an hour later
        self.stopped_by = ""
        self.settings: dict[str, Any] = {}
        self._records = RecordWriter(self.folder)
        self._images = InputImageStats()
        self._light: TensorStats | None = None
        self._offset = self._fits = self._step = self._epoch = 0
        self._recording = self._stepping = self._validated = False
        self._losses: list[tuple[int, int]] = []
        self._values: list[torch.Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepares the folder and notes what the run was started with."""
        # A second fit with a new trainer counts from 0 again; its steps come after those of the first.
        again = self._fits > 0 and trainer.global_step <= self._step
        self._offset = self._step + 1 if again else 0
        self._fits += 1
        if not trainer.is_global_zero:
            return
        root = root_module(pl_module)
        if self._fits == 1 and trainer.global_step == 0:
            files.clear_debug(self.folder)
            self._records.forget()
        self._light = TensorStats(root, self.watch_activations and not is_compiled(pl_module))
        self._records.tags = parameter_tags(root, starting_weights(pl_module))
        self.settings = {**describe_run(trainer, pl_module, root), "rules": self.rules, "stop_on": self.stop_on}
        self._records.settings(self.settings)
        self._event("fit_start", trainer)

    def _event(self, name: str, trainer: pl.Trainer, **more: Any) -> None:
        self._records.event(name, self._offset + int(trainer.global_step), trainer.current_epoch, **more)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes when the epoch began, and the metrics that were logged at the end of the one before."""
        if self._light is not None:
            if trainer.current_epoch != self._epoch:
                self._note_metrics(trainer)
            self._epoch = trainer.current_epoch
            self._event("epoch_start", trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decides whether this step is recorded and puts the hooks on."""
        self._step = self._offset + int(trainer.global_step)
        self._recording = self._step < self.first_steps or self._step % self.every_n_steps == 0
        if self._light is None:
            return
        if self._recording:
            self._light.watch("train", describe_inputs=True)
        if not self._images.is_complete and isinstance(batch, (tuple, list)):
            self._images.add(batch[0])
            if self._images.is_complete:
                self._note_images()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Looks at gradients that are reduced over processes, accumulated and unscaled."""
        if self._recording and optimizer is trainer.optimizers[0]:
            self._stepping = True
            if self._light is not None:
                self._light.before_step()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the loss on its device; looks at the updates and fetches it all where the step is recorded."""
        if self._light is not None:
            self._look(trainer, self._light, outputs)
        if self._stepping:
            self._stepping = False
            self._act(trainer)

    def _look(self, trainer: pl.Trainer, light: TensorStats, outputs: Any) -> None:
        light.unwatch()
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            self._losses.append((self._step, trainer.current_epoch))
            self._values.append(loss.detach())
        if self._stepping:
            light.after_step()
            self._fetch(trainer)

    def _fetch(self, trainer: pl.Trainer) -> None:
        """Brings everything that waits on the device over, with one synchronisation."""
        assert self._light is not None
        blocks, values = self._light.fetch(self._values)
        share = trainer.accumulate_grad_batches  # by which Lightning divides the loss
        self._records.losses([(*at, value * share) for at, value in zip(self._losses, values, strict=True)])
        self._losses, self._values = [], []
        if blocks:
            lr = max(float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups)
            self._records.tensors(self._step, trainer.current_epoch, blocks, lr, _scaler_skipped(trainer, blocks))
        self._records.flush()

    def _act(self, trainer: pl.Trainer) -> None:
        """Ends the training, in all its processes, where a rule of `stop_on` finds an issue in what process 0 saw."""
        if self.stop_on and not self.stopped_by:
            found = "" if self._light is None else self._first_issue(trainer)
            self.stopped_by = trainer.strategy.broadcast(found)
            trainer.should_stop = trainer.should_stop or bool(self.stopped_by)

    def _first_issue(self, trainer: pl.Trainer) -> str:
        recording = Recording(inputs=assemble(self._records.rows, self.settings, self._records.activity))
        for finding in evaluate(recording, self.rules, self.stop_on):
            if finding.status is Status.ISSUE:
                print(finding.line(), flush=True)
                why, override = finding.outcome.summary, finding.outcome.suggestion
                log.warning("%s ends the training: %s; try %s", finding.rule, why, override)
                self._event("stopped", trainer, by=finding.rule, why=why)
                return finding.rule
        return ""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fetches the losses of the epoch's last steps and the counts of its activations."""
        if self._light is not None:
            self._fetch(trainer)
            self._records.save_activity(self._light.take_activity("train"))
        self._act(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens to the validation; the sanity check is none."""
        if self._light is None or trainer.sanity_checking:
            return
        self._event("validation_start", trainer)
        self._light.watch("eval", describe_inputs=False)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Counts activations until enough images were seen."""
        if self._light is not None and not trainer.sanity_checking:
            self._light.restart_calls(_EVAL_SAMPLES)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the counts of the activations."""
        if self._light is None or trainer.sanity_checking:
            return
        self._light.unwatch()
        self._validated = True
        self._records.save_activity(self._light.take_activity("eval"))
        self._event("validation_end", trainer)

    def _note_metrics(self, trainer: pl.Trainer) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not self._validated:  # what is there of the validation is that of an earlier epoch
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val")}
        self._records.metrics(self._epoch, self._step, metrics)
        self._validated = False

    def _note_images(self) -> None:
        row = self._images.row()
        if row is not None:
            self._records.add(row)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what is left."""
        if self._light is None:
            return
        self._fetch(trainer)
        self._note_metrics(trainer)
        if not self._images.is_complete:
            self._note_images()
        self._event("fit_end", trainer)
        self._records.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Notes how the training ended; what is on the device may be lost with it and is not fetched."""
        if self._light is not None:
            self._light.unwatch()
            self._event("exception", trainer, why=f"{type(exception).__name__}: {exception}")
            self._records.close()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the test's metrics."""
        if trainer.is_global_zero:
            found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test")}
            self._records.metrics(trainer.current_epoch, self._step, found)
            self._records.close()


def _scaler_skipped(trainer: pl.Trainer, blocks: Sequence[tuple[str, list[str], dict[str, list[float]]]]) -> bool:
    """Returns whether the gradient scaler of fp16 skipped the step: infinite gradients, and no weight moved."""
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return False
    stats = {collection: values for collection, _, values in blocks}
    broken = not all(map(math.isfinite, stats.get("gradients", {}).get("abs_max", [])))
    return broken and not any(stats.get("updates", {}).get("abs_max", [1.0]))
