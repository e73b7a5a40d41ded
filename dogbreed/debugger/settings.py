"""The settings of the debugger, each declared once: type, default, bounds, meaning. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dogbreed.system.settings import nested, setting


@dataclass
class TensorSettings:
    """Gradients, weights, updates, activations and losses; recording them never changes a training's numbers."""

    enabled: bool = setting(True, "Record statistics of tensors.")
    every_n_steps: int = setting(50, "Steps between two recorded steps.", low=1)
    first_steps: int = setting(10, "Steps at the start that are all recorded.", low=0)
    activations: bool = setting(True, "Record activations too.")


@dataclass
class PredictionSettings:
    """Predictions of the latest validation and of the test."""

    enabled: bool = setting(True, "Record predictions, with thumbnails of the worst mistakes.")


@dataclass
class ProfilerSettings:
    """The machine's load, and the time of each step."""

    enabled: bool = setting(True, "Record the machine's load and the time of each step.")
    interval_ms: int = setting(
        500, "Milliseconds between two samples of the machine.", choices=(100, 200, 500, 1000, 5000, 60000)
    )
    trace_steps: int = setting(0, "Steps that torch.profiler traces into debug/traces; slow.", low=0)
    trace_start: int = setting(10, "First traced step.", low=0)
    stall_s: float = setting(1800.0, "Seconds without a step after which a training counts as stalled.", above=0)


@dataclass
class ImageCheckSettings:
    """Perceptual hashes that find the same image in two splits."""

    enabled: bool = setting(True, "Search for images that are in two splits.")
    max_images: int = setting(2000, "Images of each split that are compared.", low=1)


@dataclass
class SmdebugSettings:
    """smdebug's hook in addition to ours; all smdebug tools read its files."""

    enabled: bool = setting(False, "Record with smdebug too; needs pip install 'dogbreed[debug]'.")
    save_interval: int = setting(50, "Steps between two recorded steps.", low=1)
    collections: list[str] = setting(["weights", "gradients", "losses"], "Collections of tensors that smdebug records.")


@dataclass
class DebuggerSettings:
    """What is recorded of a training, for its report; `debugger=off` records nothing."""

    tensors: TensorSettings = nested(TensorSettings)
    predictions: PredictionSettings = nested(PredictionSettings)
    profiler: ProfilerSettings = nested(ProfilerSettings)
    images: ImageCheckSettings = nested(ImageCheckSettings)
    smdebug: SmdebugSettings = nested(SmdebugSettings)
    rules: dict[str, Any] = setting(
        {}, "Settings of rules by name: +debugger.rules.Overfit.patience=5, +debugger.rules.Confusion=false."
    )
    stop_on: list[str] = setting([], "Rules that end the training, such as [ExplodingTensor,VanishingGradient].")
