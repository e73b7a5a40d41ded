"""TensorDebugger: records gradients, weights, updates, activations, losses and metrics, and can stop a training.

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
from dogbreed.debugger.record.network import is_compiled, is_pretrained, parameter_tags, root_module
from dogbreed.debugger.record.record_writer import Block, RecordWriter
from dogbreed.debugger.record.recorder import Recorder, safe_hook
from dogbreed.debugger.record.run_settings import describe_run
from dogbreed.debugger.record.tensor_stats import TensorStats
from dogbreed.debugger.recording import Recording
from dogbreed.debugger.rules.evaluate import evaluate, merged_rules
from dogbreed.debugger.settings import TensorSettings

log = logging.getLogger(__name__)

_EVAL_IMAGES = 256
"""Validation images over which active nodes are counted; the rule DeadRelu needs 200."""

_MIN_STEPS = 200
"""Optimizer steps, and at least an epoch, before LossNotDecreasing may end a training."""


class TensorDebugger(Recorder):
    """Records gradients, weights, updates, activations, losses and metrics as plain files.

    It never changes a training's numbers. It supports parameters that are unfrozen later, a second `fit`, gradient
    accumulation, mixed precision, DDP (process 0 records the reduced gradients) and `torch.compile` (without
    activations). A step is an optimizer step, counted from 0; sanity checks and validation do not count.

    Args:
        folder: The run's folder. Records of an earlier run in it are removed when a training starts at step 0.
        every_n_steps: Optimizer steps between recorded ones.
        first_steps: Steps at the start that are all recorded.
        activations: Whether activation layers are recorded.
        stop_on: Names of rules that end the training as soon as they find an issue. The records are then kept in
            memory too.
        rules: Rules and settings, see `rules.base.configured_rules`.

    Attributes:
        stopped_by: Name of the rule that ended the training, "" if none did.

    Raises:
        UserError: an unknown rule or setting.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_n_steps: int = TensorSettings.every_n_steps,
        first_steps: int = TensorSettings.first_steps,
        activations: bool = TensorSettings.activations,
        stop_on: Sequence[str] = (),
        rules: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.first_steps = first_steps
        self.watch_activations = activations
        self.stop_on = tuple(stop_on)
        self.rules = dict(rules or {})
        evaluate(Recording(), self.rules, self.stop_on)  # raises on a wrong name before the training starts
        self.stopped_by = ""
        self.settings: dict[str, Any] = {}
        self._records = RecordWriter(self.folder, keep_rows=bool(self.stop_on))
        self._images = InputImageStats()
        self._stats: TensorStats | None = None  # of process 0
        self._offset = self._fits = self._step = self._epoch = 0
        self._is_recorded = self._has_stepped = self._has_validated = False
        self._losses: list[tuple[int, int, torch.Tensor]] = []
        self._issue = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepares the folder and records the run's settings."""
        # A second fit with a new trainer counts from 0 again; its steps follow those of the first.
        restarted = self._fits > 0 and trainer.global_step <= self._step
        self._offset = self._step + 1 if restarted else 0
        self._fits += 1
        if trainer.is_global_zero:
            self._begin(trainer, pl_module)

    @safe_hook
    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        root = root_module(pl_module)
        if self._fits == 1 and trainer.global_step == 0:
            files.clear_debug(self.folder)
            self._records.reset()
        self._stats = TensorStats(root, self.watch_activations and not is_compiled(pl_module))
        self._records.tags = parameter_tags(root, is_pretrained(pl_module))
        self.settings = {**describe_run(trainer, pl_module, root), "rules": self.rules, "stop_on": self.stop_on}
        self._records.write_settings(self.settings)
        self._add_event("fit_start", trainer)

    def _add_event(self, name: str, trainer: pl.Trainer, **details: Any) -> None:
        self._records.add_event(name, self._offset + int(trainer.global_step), trainer.current_epoch, **details)

    @safe_hook
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records the start of the epoch, and the metrics that were logged at the end of the previous one."""
        if self._stats is not None:
            if trainer.current_epoch != self._epoch:
                self._add_metrics(trainer)
            self._epoch = trainer.current_epoch
            self._add_event("epoch_start", trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decides whether this step is recorded and adds hooks if so."""
        self._step = self._offset + int(trainer.global_step)
        self._is_recorded = self._step < self.first_steps or self._step % self.every_n_steps == 0
        self._watch_batch(trainer, batch)

    @safe_hook
    def _watch_batch(self, trainer: pl.Trainer, batch: Any) -> None:
        if self._stats is None:
            return
        if self._is_recorded:
            self._stats.activations.watch("train", describe_inputs=True)
        if not self._images.is_complete and isinstance(batch, (tuple, list)):
            self._images.add(batch[0])
            if self._images.is_complete:
                self._add_images()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Reads the gradients: reduced over processes, accumulated and unscaled."""
        if self._is_recorded and optimizer is trainer.optimizers[0]:
            self._has_stepped = True
            self._read_gradients(trainer)

    @safe_hook
    def _read_gradients(self, trainer: pl.Trainer) -> None:
        if self._stats is not None:
            self._stats.before_step()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the loss on its device; at a recorded step, reads the updates and fetches all values."""
        self._read_step(trainer, outputs)
        if self._has_stepped:
            self._has_stepped = False
            self._stop_on_issue(trainer)

    @safe_hook
    def _read_step(self, trainer: pl.Trainer, outputs: Any) -> None:
        if self._stats is None:
            return
        self._stats.activations.unwatch()
        if self._stats.activations.error is not None:
            raise self._stats.activations.error
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            self._losses.append((self._step, trainer.current_epoch, loss.detach()))
        if self._has_stepped:
            self._stats.after_step()
            self._fetch(trainer, self._stats)

    def _fetch(self, trainer: pl.Trainer, stats: TensorStats) -> None:
        """Fetches everything that is pending on the device, with one synchronisation, and writes it."""
        blocks, values = stats.fetch([loss for _, _, loss in self._losses])
        factor = trainer.accumulate_grad_batches  # Lightning divides the loss by it
        losses = [(step, epoch, value * factor) for (step, epoch, _), value in zip(self._losses, values, strict=True)]
        self._records.add_losses(losses)
        self._losses = []
        if blocks:
            lr = max(float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups)
            self._records.add_tensors(self._step, trainer.current_epoch, blocks, lr, _scaler_skipped(trainer, blocks))
        self._records.flush()

    def _stop_on_issue(self, trainer: pl.Trainer) -> None:
        """Ends the training in all processes if process 0 finds an issue of `stop_on`; collective."""
        if self.stop_on and not self.stopped_by:
            self._find_issue(trainer)
            self.stopped_by = trainer.strategy.broadcast(self._issue)
            trainer.should_stop = trainer.should_stop or bool(self.stopped_by)

    @safe_hook
    def _find_issue(self, trainer: pl.Trainer) -> None:
        if self._stats is None:
            return
        recording = Recording(inputs=assemble(self._records.rows, self.settings, self._records.activity))
        epoch_steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        patient = {"min_steps": max(_MIN_STEPS, epoch_steps) if math.isfinite(epoch_steps) else _MIN_STEPS}
        rules = merged_rules({"LossNotDecreasing": patient}, self.rules)
        for finding in evaluate(recording, rules, self.stop_on):
            if finding.status is Status.ISSUE:
                print(finding.line(), flush=True)
                why, suggestion = finding.outcome.summary, finding.outcome.suggestion
                action = suggestion.action if suggestion else "see the report"
                log.warning("%s ends the training: %s; %s", finding.rule, why, action)
                self._add_event("stopped", trainer, by=finding.rule, why=why)
                self._issue = finding.rule
                return

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fetches the losses of the epoch's last steps and its activation counts."""
        self._end_epoch(trainer)
        self._stop_on_issue(trainer)

    @safe_hook
    def _end_epoch(self, trainer: pl.Trainer) -> None:
        if self._stats is not None:
            self._fetch(trainer, self._stats)
            self._records.save_activity(self._stats.activations.take_activity("train"))

    @safe_hook
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts counting active nodes, except in the sanity check; outside a fit, records the run's settings."""
        if self._stats is None and trainer.state.fn == "validate" and trainer.is_global_zero:
            root = root_module(pl_module)
            self.settings = {**describe_run(trainer, pl_module, root), "rules": self.rules, "stop_on": self.stop_on}
            self._records.write_settings(self.settings)
        if self._stats is not None and not trainer.sanity_checking:
            self._add_event("validation_start", trainer)
            self._stats.activations.watch("eval", describe_inputs=False)

    @safe_hook
    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stops counting once enough images were seen."""
        if self._stats is not None and not trainer.sanity_checking:
            self._stats.activations.end_forward(_EVAL_IMAGES)

    @safe_hook
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the counts of active nodes; outside a fit, the metrics."""
        if self._fits == 0 and trainer.state.fn == "validate" and trainer.is_global_zero:
            self._write_metrics(trainer, "val")
        if self._stats is not None and not trainer.sanity_checking:
            self._stats.activations.unwatch()
            self._has_validated = True
            self._records.save_activity(self._stats.activations.take_activity("eval"))
            self._add_event("validation_end", trainer)

    def _add_metrics(self, trainer: pl.Trainer) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not self._has_validated:  # Lightning keeps the validation metrics of an earlier epoch
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val")}
        self._records.add_metrics(self._epoch, self._step, metrics)
        self._has_validated = False

    def _add_images(self) -> None:
        row = self._images.row()
        if row is not None:
            self._records.add(row)

    @safe_hook
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes pending records."""
        if self._stats is None:
            return
        self._fetch(trainer, self._stats)
        self._add_metrics(trainer)
        if not self._images.is_complete:
            self._add_images()
        self._add_event("fit_end", trainer)
        self._records.close()

    @safe_hook
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Records the error; values on the device are not fetched, since the device may have failed."""
        if self._stats is not None:
            self._add_event("exception", trainer, why=f"{type(exception).__name__}: {exception}")
        self.release(trainer)

    def release(self, trainer: pl.Trainer) -> None:
        """Removes all hooks, drops pending values and closes the file."""
        if self._stats is not None:
            self._stats.activations.unwatch()
            self._stats = None
        self._losses = []
        self._records.close()

    @safe_hook
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the test's metrics."""
        if trainer.is_global_zero:
            self._write_metrics(trainer, "test")

    def _write_metrics(self, trainer: pl.Trainer, stage: str) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(stage)}
        self._records.add_metrics(trainer.current_epoch, self._step, metrics)
        self._records.close()


def _scaler_skipped(trainer: pl.Trainer, blocks: Sequence[Block]) -> bool:
    """Returns whether the gradient scaler of fp16 skipped the step: infinite gradients, and no weight moved."""
    if getattr(trainer.precision_plugin, "scaler", None) is None:
        return False
    stats = {block.collection: block.stats for block in blocks}
    are_finite = all(map(math.isfinite, stats.get("gradients", {}).get("abs_max", [])))
    return not are_finite and not any(stats.get("updates", {}).get("abs_max", [1.0]))
