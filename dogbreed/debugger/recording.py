"""All that was recorded of one run, as the inputs that rules name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dogbreed.debugger.series import TensorSeries


@dataclass(frozen=True)
class Missing:
    """Says why an input is not there."""

    reason: str
    not_applicable: bool = False
    """True: this run has nothing of the kind (`not_applicable`); False: it was not recorded (`insufficient_data`)."""


INPUTS: Mapping[str, Missing] = {
    "tensors": Missing("no tensor was recorded; train with debugger.tensors.enabled=true"),
    "gradients": Missing("no gradient was recorded"),
    "weights": Missing("no weight was recorded"),
    "updates": Missing("no update was recorded: it takes two looks at the weights, around an optimizer step"),
    "activation_inputs": Missing("no input of an activation layer was recorded", not_applicable=True),
    "relu_activity": Missing("the network has no ReLU", not_applicable=True),
    "saturation": Missing("the network has neither tanh nor sigmoid", not_applicable=True),
    "losses": Missing("no training loss was recorded"),
    "train_losses": Missing("no training loss was recorded for a whole epoch"),
    "val_losses": Missing("no validation loss was recorded (metric val/loss)"),
    "val_accuracy": Missing("no validation accuracy was recorded (metric val/accuracy)"),
    "class_counts": Missing("the images of each class were not counted"),
    "predictions": Missing("no prediction on validation or test images was recorded"),
    "input_images": Missing("no input image was recorded"),
    "images": Missing("images were not hashed; train with debugger.images.enabled=true"),
    "other_runs": Missing(
        "no other run to compare with; set debugger.rules.SimilarAcrossRuns.other_trials", not_applicable=True
    ),
    "heartbeats": Missing("no time of a step was recorded"),
    "step_times": Missing("no step was timed; train with debugger.profiler.enabled=true"),
    "system": Missing("the machine was not watched; train with debugger.profiler.enabled=true"),
    "gpus": Missing("no NVIDIA GPU was seen", not_applicable=True),
    "settings": Missing("the run's settings were not recorded"),
}
"""What a rule may ask for by naming a parameter, and what is said where it is missing.

- `tensors`: collection (`weights`, `gradients`, `updates`, `activation_inputs`, `losses`) to `TensorSeries`
- `gradients`, `weights`, `updates`, `activation_inputs`: `TensorSeries`
- `relu_activity`, `saturation`: layer name to `NodeActivity`
- `losses` (by optimizer step), `train_losses`, `val_losses`, `val_accuracy` (by epoch): `Series`
- `class_counts`: class name to number of training images
- `predictions`: `Predictions`; `input_images`: `ImageStatistics`; `images`: `ImageHashes`
- `other_runs`: run name to its `tensors`
- `heartbeats`: (S,) seconds since the epoch, the last one being when the run was last known alive;
  those before a pause are moved up to where the training was resumed
- `step_times`: `StepTimes`; `system` and, where there is a GPU, `gpus`: `SystemSeries`
- `settings`: what the run was started with and what is known of the machine (`settings.py` of the recorders)
"""


@dataclass
class Recording:
    """What was recorded of one run."""

    name: str = "run"
    inputs: dict[str, Any] = field(default_factory=dict)
    """Input name (see `INPUTS`) to its value; absent ones are missing."""
    missing: dict[str, Missing] = field(default_factory=dict)
    """Why an input is not there, where more is known than what `INPUTS` says."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, one line each; the report shows them."""
    metrics: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    """Every logged metric by epoch: name to (epochs, values)."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What happened when: epochs, validations, the end, an exception."""

    def get(self, name: str) -> Any:
        """Returns the input `name`, or a `Missing` that says why it is not there."""
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
        """The run's settings, {} where they were not recorded."""
        return self.inputs.get("settings") or {}
