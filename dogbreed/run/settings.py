"""The settings of one training, each declared once: type, default, bounds, meaning. Imports no torch.

Hyperparameters of the model are declared in `dogbreed.models.hyperparameters`, those of the data in
`dogbreed.data.settings`, those of the debugger in `dogbreed.debugger.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dogbreed.callbacks.metric_line import METRICS
from dogbreed.system.settings import REQUIRED, nested, setting


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
    averaging: str | None = setting(
        None,
        "Validate, keep and serve an average of the weights over many steps: `ema` is exponential, `swa` uniform.",
        choices=("ema", "swa"),
    )
    averaging_decay: float = setting(
        0.999,
        "Share of the average that is kept at each step, for `averaging=ema`; smaller at the start.",
        low=0,
        high=1,
    )
    averaging_start: float | None = setting(
        None, "Share of the steps after which averaging starts; null is 0 for ema, 0.75 for swa.", low=0, high=1
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
class FeatureSettings:
    """Cached features of a frozen backbone."""

    folder: str = setting(
        "${oc.env:DOGBREED_FEATURES,outputs/.features}", "Folder of the cache; deleting it only costs time."
    )
    views: int = setting(
        0,
        "Random crops per training image that are cached and shown in turn; 0 caches the plain image and needs "
        "data.augment=false.",
        low=0,
    )
    max_gb: float = setting(20, "Size limit in GB; the least recently used features are removed.", low=0)
    url: str | None = setting(
        None, "s3://BUCKET/PREFIX where the jobs of a sweep share features: the first computes, the others wait."
    )
    endpoint_url: str | None = setting(
        "${oc.select:data.endpoint_url,null}", "Server of another S3-compatible store for `features.url`."
    )
