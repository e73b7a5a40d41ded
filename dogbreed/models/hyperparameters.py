"""The hyperparameters of a classifier and of its schedules, each declared once: type, default, bounds, meaning, range.

`ImageClassifier` takes them, the command line composes and checks them, and `--help` and the configuration reference
list them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from dogbreed.errors import UserError, did_you_mean
from dogbreed.system.settings import check, setting


@dataclass
class Hyperparameters:
    """How a classifier is trained.

    Raises:
        UserError: A value has the wrong type, is out of bounds, or is not among the choices.
    """

    lr: float = setting(
        1e-3, "Peak learning rate, of the head for `finetune=gradual`.", low=0, search="tag(log,interval(1e-4,1e-1))"
    )
    weight_decay: float = setting(
        0.01, "Weight decay of weights; biases and norms have none.", low=0, search="tag(log,interval(1e-6,1))"
    )
    label_smoothing: float = setting(
        0.0, "Share of the target that is spread over all classes.", low=0, high=1, search="interval(0,0.2)"
    )
    mixup: float = setting(
        0.0,
        "Alpha of mixup, which blends the images of a batch and their labels; 0 disables it.",
        low=0,
        search="interval(0,0.5)",
    )
    cutmix: float = setting(
        0.0,
        "Alpha of CutMix, which pastes rectangles from other images; 0 disables it. With mixup, each batch has one of "
        "the two.",
        low=0,
        search="interval(0,1)",
    )
    tta: bool = setting(
        False,
        "Test-time augmentation: averages the logits of an image and its mirror image in validation, test and serving, "
        "which doubles inference time.",
    )
    finetune: str | None = setting(
        None,
        "`head` trains the head on the frozen backbone, `full` trains everything, `gradual` trains the head and then "
        "unfreezes the backbone, `linear_probe` solves the head by L-BFGS without training steps. null means `head`, "
        "or on the command line `full` if the weights are random.",
        choices=("head", "full", "gradual", "linear_probe"),
        search="choice(head,gradual,full)",
    )
    head_start: str | None = setting(
        None,
        "Initial head: `solved` is its optimum on the frozen backbone, `pretrained` the optimum near the classifier of "
        "the pretrained weights, for classes that it knows; null is small random weights. `finetune=linear_probe` with "
        "`pretrained` is regularised towards that classifier.",
        choices=("solved", "pretrained"),
    )
    freeze_norms: bool = setting(
        False, "Keep the batch norm statistics of the pretrained weights, even if the backbone is trained."
    )
    unfreeze_epoch: int = setting(
        1, "First epoch in which the backbone is trained, counted from 0, for `finetune=gradual`.", low=0
    )
    unfreeze_every: int = setting(
        0,
        "Epochs until the next stage of the backbone is unfrozen, from the head down (ULMFiT, Howard and Ruder 2018), "
        "for `finetune=gradual`; 0 unfreezes all together.",
        low=0,
    )
    backbone_lr_factor: float = setting(
        0.1,
        "Learning rate of the backbone relative to that of the head, for `finetune=gradual`.",
        low=0,
        search="tag(log,interval(0.01,1))",
    )
    layer_decay: float = setting(
        1.0,
        "Learning rate of each layer relative to the layer above it, for `finetune=full` and `gradual`.",
        low=0,
        high=1,
        search="interval(0.6,1)",
    )
    channels_last: bool = setting(False, "Use the channels-last memory layout, which is faster on tensor cores.")
    compile: bool = setting(False, "Compile the network with torch.compile; takes about a minute at the start.")

    def __post_init__(self) -> None:
        vars(self).update(check(type(self), vars(self)))

    def replace(self, **changes: Any) -> Hyperparameters:
        """Returns a checked copy with `changes`.

        Raises:
            UserError: A name is not a hyperparameter, or a value is not allowed.
        """
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                raise UserError(f"{name} is not a hyperparameter{did_you_mean(name, names)}")
        return replace(self, **changes)


@dataclass
class OptimizerSettings:
    """Arguments of the optimizer class; add any other one with `+optimizer.NAME=VALUE`."""

    fused: bool | None = setting(True, "Update all parameters with one kernel; null decides by the device.")


@dataclass
class SgdSettings:
    """Further arguments of `optimizer=sgd`."""

    momentum: float = setting(0.9, "Share of the previous update that is added to the next one.", low=0)
    nesterov: bool = setting(True, "Nesterov momentum.")


@dataclass
class CosineSettings:
    """Warm-up, then half a cosine (`scheduler=cosine`)."""

    warmup: float = setting(0.05, "Share of all steps in which the learning rate rises from 0.", low=0, high=1)
    floor: float = setting(0.0, "Final learning rate as a share of its peak.", low=0, high=1)


@dataclass
class StepSettings:
    """Drops at regular intervals (`scheduler=step`)."""

    every_epochs: int = setting(2, "Epochs between two drops of the learning rate.", low=1)
    factor: float = setting(0.1, "Factor of the learning rate at each drop.", above=0)
