"""The recording of one run, as the inputs of the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dogbreed.debugger.series import TensorSeries


@dataclass(frozen=True)
class Missing:
    """Why an input is missing."""

    reason: str
    not_applicable: bool = False
    """True: this run has nothing of the kind; False: it was not recorded (status `insufficient_data`)."""


INPUTS: Mapping[str, Missing] = {
    "tensors": Missing("no tensor was recorded; train with debugger.tensors.enabled=true"),
    "gradients": Missing("no gradient was recorded"),
    "weights": Missing("no weight was recorded"),
    "updates": Missing("no update was recorded: it needs the weights before and after an optimizer step"),
    "activation_inputs": Missing("no input of an activation layer was recorded", not_applicable=True),
    "relu_activity": Missing("the network has no ReLU", not_applicable=True),
    "saturation": Missing("the network has neither tanh nor sigmoid", not_applicable=True),
    "losses": Missing("no training loss was recorded"),
    "train_losses": Missing("no training loss was recorded for a complete epoch"),
    "val_losses": Missing("no validation loss was recorded (metric val/loss)"),
    "val_accuracy": Missing("no validation accuracy was recorded (metric val/accuracy)"),
    "class_counts": Missing("the training images per class were not counted"),
    "predictions": Missing("no prediction on validation or test images was recorded"),
    "input_images": Missing("no input image was recorded"),
    "images": Missing("images were not hashed; train with debugger.images.enabled=true"),
    "other_runs": Missing(
        "no other run to compare with; set debugger.rules.SimilarAcrossRuns.other_trials", not_applicable=True
    ),
    "heartbeats": Missing("no heartbeat was recorded"),
    "step_times": Missing("no step was timed; train with debugger.profiler.enabled=true"),
    "system": Missing("the machine was not sampled; train with debugger.profiler.enabled=true"),
    "gpus": Missing("no NVIDIA GPU was found", not_applicable=True),
    "settings": Missing("the run's settings were not recorded"),
}
"""The inputs that a rule can name as parameters, and the reason shown if one is missing.

- `tensors`: collection (`weights`, `gradients`, `updates`, `activation_inputs`, `losses`) to `TensorSeries`
- `gradients`, `weights`, `updates`, `activation_inputs`: `TensorSeries`
- `relu_activity`, `saturation`: layer name to `NodeActivity`
- `losses` (by optimizer step), `train_losses`, `val_losses`, `val_accuracy` (by epoch): `Series`
- `class_counts`: class name to number of training images
- `predictions`: `Predictions`; `input_images`: `ImageStatistics`; `images`: `ImageHashes`
- `other_runs`: run name to its `tensors`
- `heartbeats`: (S,) ends of training steps and some validation batches, seconds since the epoch, ascending;
  those before a pause are shifted to the time at which the training was resumed
- `step_times`: `StepTimes`; `system` and, with a GPU, `gpus`: `SystemSeries`
- `settings`: what the run was started with and on which machine (`record/run_settings.py`)
"""


@dataclass
class Recording:
    """What was recorded of one run."""

    name: str = "run"
    command: str = ""
    """The command that trains the same again, empty if it is unknown."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """Input name (see `INPUTS`) to its value; others are missing."""
    missing: dict[str, Missing] = field(default_factory=dict)
    """Input name to a reason that is more specific than that in `INPUTS`."""
    problems: list[str] = field(default_factory=list)
    """Unreadable files, one line each, for the report."""
    metrics: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    """Logged metrics: name to (epochs, values)."""
    phases_s: dict[str, float] = field(default_factory=dict)
    """Seconds of the run, one of `PHASES` to seconds."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Starts of epochs and validations, the end, an exception; with their time."""

    def get(self, name: str) -> Any:
        """Returns the input `name`, or a `Missing` with the reason."""
        value = self.inputs.get(name)
        if name == "tensors" and value is None:
            value = self._collections() or None
        if value is not None:
            return value
        unknown = Missing(f"no input is named {name!r}; there are {', '.join(sorted(INPUTS))}")
        return self.missing.get(name) or INPUTS.get(name, unknown)

    def _collections(self) -> dict[str, TensorSeries]:
        names = ("weights", "gradients", "updates", "activation_inputs")
        return {name: self.inputs[name] for name in names if self.inputs.get(name) is not None}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The run's settings, {} if they were not recorded."""
        return self.inputs.get("settings") or {}
