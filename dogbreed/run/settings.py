"""The settings of one training, each declared once: type, default, bounds, meaning. Imports no torch.

Other layers declare their settings themselves: `dogbreed.models.hyperparameters`, `dogbreed.data.settings`,
`dogbreed.callbacks.settings` and `dogbreed.debugger.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dogbreed.callbacks.metric_line import METRICS
from dogbreed.system.settings import REQUIRED, nested, setting

PRECISIONS = (
    "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine",
    "transformer-engine-float16", "16", "bf16", "32", "64",
)  # fmt: skip
"""Number formats of Lightning; the last four are short names."""


@dataclass
class Objective:
    """Chooses the best checkpoint of a training and the best trial of a sweep."""

    metric: str = setting("val/accuracy", "Metric to optimise, one of those that a training prints.", choices=METRICS)
    goal: str = setting("maximize", "Direction of the optimisation.", choices=("maximize", "minimize"))


@dataclass
class TrainingSettings:
    """One training: its length, its batches, what it optimises and what it writes."""

    name: str | None = setting(None, "Name of the run; null makes one from the model and the time.")
    output_dir: str = setting(
        "outputs/${name}", "Folder of the run: config.yaml, metrics.csv, tensorboard/, checkpoints/, results.json."
    )
    seed: int = setting(
        7, "Seed of the data order, the augmentation, the initial head and the search.", low=0, high=2**32 - 1
    )
    epochs: int = setting(4, "Passes over the training images.", low=1, search="choice(3,5,10)")
    batch_size: int = setting(32, "Images per batch, on each device.", low=1, search="choice(16,32,64,128)")
    effective_batch_size: int | None = setting(
        None,
        "Images per optimizer step over all devices, reached by accumulating batches; null uses one batch per device.",
        low=1,
    )
    lr_scaling: str = setting(
        "none",
        "Scale `lr`, given for steps of 256 images, to the images per step.",
        choices=("none", "linear", "sqrt"),
    )
    objective: Objective = nested(Objective)
    resume_from: str | None = setting(None, "Checkpoint to resume from, for example checkpoints/last.ckpt of a run.")
    checkpoint_dir: str = setting("${output_dir}/checkpoints", "Folder of best.ckpt and last.ckpt.")
    checkpoint_s: float = setting(60, "Seconds between checkpoints, also within an epoch.", low=0)
    checkpoint_at_end: bool = setting(True, "Write last.ckpt at the end too, to resume with more epochs.")
    model_dir: str | None = setting(
        "${output_dir}/model", "Folder for the best model as an endpoint serves it; null writes none."
    )


@dataclass
class ModelSettings:
    """The network."""

    name: str = setting(REQUIRED, "Name of a timm model, as timm.list_models() spells it.")
    weights: str | None = setting(
        None,
        "`hub`, `random`, or the path of a .safetensors or .pth file; null is `hub`, or `random` on demo data.",
    )
    kwargs: dict[str, Any] = setting({}, "Arguments of timm.create_model, added as +model.kwargs.pad_type=same.")


@dataclass
class TrainerSettings:
    """Arguments of `pytorch_lightning.Trainer`; add any other one with `+trainer.NAME=VALUE`."""

    accelerator: str = setting("auto", "Type of the device.", choices=("auto", "cpu", "gpu", "cuda", "mps", "tpu"))
    devices: int | str | list[int] = setting(
        "auto",
        "Number of devices, or a list of their numbers; -1 and `auto` use all of them.",
        choices=("auto",),
        low=-1,
    )
    precision: str = setting("32-true", "Number format of weights and computations.", choices=PRECISIONS)
    max_epochs: int = setting("${epochs}", "Passes over the training images; -1 trains until max_steps.", low=-1)
    deterministic: bool | str = setting(
        "warn", "Reproducible kernels: `warn` uses them if the device has them.", choices=("warn",)
    )
    log_every_n_steps: int = setting(25, "Steps between two logged training losses.", low=0)
    num_sanity_val_steps: int = setting(0, "Validation batches before the training starts; -1 uses all.", low=-1)


@dataclass
class MoreTrainerSettings:
    """Further arguments of the trainer, which some choices set; add them with `+trainer.NAME=VALUE`."""

    strategy: str = setting("auto", "How several processes train together, for example `ddp`.")
    num_nodes: int = setting(1, "Hosts that train together; a job on several hosts sets it.", low=1)
    sync_batchnorm: bool = setting(False, "Compute batch norms over the images of all processes.")
    benchmark: bool | None = setting(None, "Search for cuDNN's fastest kernels; null decides by `deterministic`.")
    fast_dev_run: bool | int = setting(False, "Run this many batches of each loop; true runs one.", low=0)
    detect_anomaly: bool = setting(False, "End the training at the first NaN in a gradient; slow.")
    max_steps: int = setting(-1, "Optimizer steps after which the training ends; -1 sets no limit.", low=-1)
    accumulate_grad_batches: int = setting(1, "Batches per optimizer step; see also `effective_batch_size`.", low=1)
    gradient_clip_val: float | None = setting(None, "Largest norm of the gradients; null does not clip.", low=0)
    check_val_every_n_epoch: int | None = setting(1, "Epochs between two validations.", low=1)
