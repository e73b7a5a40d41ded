"""ImageClassifier: transfer learning of any timm network as a LightningModule."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerConfig, OptimizerLRSchedulerConfig
from torch import Tensor, nn

from dogbreed.errors import UserError
from dogbreed.labels import parse_classes
from dogbreed.models import backbones, freezing, heads
from dogbreed.models.freezing import FROZEN
from dogbreed.models.heads import FeatureBatch
from dogbreed.models.hyperparameters import Hyperparameters
from dogbreed.models.inputs import check_classes, check_size, normalise
from dogbreed.models.metrics import LOGGED, ClassificationMetrics
from dogbreed.models.mixup import create_mixup
from dogbreed.models.param_groups import create_optimizer, layer_depths, parameter_groups
from dogbreed.models.schedules import create_scheduler
from dogbreed.models.tta import flip_tta


class ImageClassifier(pl.LightningModule):
    """A timm network with a head for `classes`, trained with cross-entropy.

    All arguments are plain strings, numbers and dicts, and every checkpoint contains them:
    `ImageClassifier.load_from_checkpoint(path)` needs nothing else, and no network access. A subclass with its own
    constructor passes `load_weights` on.

    Batches are `(images, labels, ...)`, or `FeatureBatch` for cached features of the frozen backbone, of which only the
    head is run. Training minimises cross-entropy with label smoothing and mixup. Validation and test report plain
    cross-entropy, so that their losses are comparable between runs. `validation_step` and `test_step` return
    `{"logits": (B, num_classes)}` for callbacks.

    Args:
        model: timm model name.
        classes: Class folder names in label order, such as `["001.Affenpinscher", ...]`.
        hyperparameters: How to train; None for the defaults. Fields may also be given as keywords, which take
            precedence: `ImageClassifier("resnet18", classes, lr=1e-3)`. With `head_start`, call
            `dogbreed.models.linear_probe.fit_linear_probe` before the fit, with `finetune=linear_probe` in place of it.
        weights: `hub` (timm's pretrained weights), `random`, or the path of a .safetensors or .pth file.
        optimizer: `{"_target_": "torch.optim.AdamW", ...}`; None for AdamW.
        scheduler: `{"_target_": "dogbreed.models.schedules.cosine", ...}`; None for a constant learning rate.
        model_kwargs: Further arguments of `timm.create_model`.
        load_weights: False builds the network without loading `weights`, for a state dict that replaces them. Not a
            hyperparameter.
        **overrides: Fields of `Hyperparameters`.

    Attributes:
        net: The timm network, normalised float32 images (B, 3, H, W) to logits (B, num_classes), without TTA.
        input_spec: The image format that `net` expects.
        pretrained_head: Weight and bias of the pretrained classifier, for `head_start=pretrained`.
        head_is_solved: Whether `fit_linear_probe` has set the head.

    Raises:
        UserError: An unknown model or choice, or unavailable weights.
    """

    def __init__(
        self,
        model: str,
        classes: Sequence[str],
        hyperparameters: Hyperparameters | None = None,
        *,
        weights: str = "hub",
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        load_weights: bool = True,
        **overrides: Any,
    ) -> None:
        super().__init__()
        hp = (hyperparameters or Hyperparameters()).replace(**overrides)
        hp.finetune = hp.finetune or "head"
        if isinstance(classes, (str, int)):
            raise UserError(f"classes={classes!r}: give the names of all classes in a list, such as data.classes")
        if len(classes) < 2:
            raise UserError(f"a classifier needs at least two classes, got {list(classes)}")
        optimizer, scheduler, model_kwargs = dict(optimizer or {}), dict(scheduler or {}), dict(model_kwargs or {})
        classes = list(classes)
        self.save_hyperparameters(ignore=["hyperparameters", "load_weights"], logger=False)  # also those of a subclass
        structures = {"optimizer": optimizer, "scheduler": scheduler, "model_kwargs": model_kwargs}
        self.hparams.update({**asdict(hp), "classes": classes, **structures})  # plain data: loads without pickle
        self.classes = classes
        self.class_names = [name for _, name in parse_classes(classes)]
        self.net = backbones.create(model, len(classes), weights if load_weights else "random", model_kwargs)
        self.input_spec = backbones.input_spec(self.net, model_kwargs)
        if hp.channels_last:
            self.net.to(memory_format=torch.channels_last)
        if hp.finetune != "full":
            freezing.unfreeze(self.net, 0)
        self.head_is_solved = False
        self.pretrained_head = (
            backbones.pretrained_head(self.net, model, weights, model_kwargs)
            if hp.head_start == "pretrained" and load_weights
            else None
        )
        self.mixup = create_mixup(hp.mixup, hp.cutmix, len(classes))
        self.train_loss = nn.CrossEntropyLoss(label_smoothing=hp.label_smoothing)
        self.metrics = nn.ModuleDict({f"{stage}_metrics": ClassificationMetrics(len(classes)) for stage in LOGGED})
        self._class_scores: tuple[list[float], list[float]] | None = None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> ImageClassifier:
        """Returns the classifier of a checkpoint, as in Lightning; neither hub nor weights file is read.

        Further arguments are those of `LightningModule.load_from_checkpoint`; keywords also replace hyperparameters.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, load_weights=False, **kwargs)
        except RuntimeError as error:
            if "state_dict" not in str(error):
                raise
            raise UserError(
                f"{checkpoint_path} has other weights than a model with these arguments; for a new head or network, "
                f"type ImageClassifier(..., weights={str(checkpoint_path)!r})"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, num_classes) for `images` (B, 3, H, W), in eval mode with TTA.

        Args:
            images: Normalised float32 images, or uint8 ones, which are normalised here.

        Raises:
            UserError: The network accepts only images of another size.
        """
        check_size(self.net, self.input_spec, *images.shape[-2:])
        if images.dtype == torch.uint8:
            images = normalise(images, self.input_spec).to(self.dtype)
        if self.hparams["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        if self.hparams["tta"] and not self.training:
            return flip_tta(self.net, images)
        logits: Tensor = self.net(images)
        return logits

    def _logits(self, batch: Any) -> Tensor:
        if isinstance(batch, FeatureBatch):
            return heads.head_logits(self.net, batch.features)
        logits: Tensor = self(batch[0])
        return logits

    def train(self, mode: bool = True) -> ImageClassifier:
        """Sets train or eval mode; frozen modules stay in eval mode, so that their batch norms do not change."""
        super().train(mode)
        if mode and self.hparams["finetune"] in FROZEN:
            heads.set_head_train_mode(self.net)
        elif mode and self.hparams["finetune"] == "gradual":
            freezing.set_train_modes(self.net)
        if mode and self.hparams["freeze_norms"]:
            freezing.freeze_norms(self.net)
        return self

    def setup(self, stage: str) -> None:
        """Compiles the network if `compile` is set, and registers all parameters with DDP.

        Raises:
            UserError: A linear probe has no steps to fit, or the data module has other classes.
        """
        classes = getattr(self.trainer.datamodule, "classes", None)  # type: ignore[attr-defined]
        if classes is not None:
            check_classes(self.classes, classes)
        if stage != "fit":
            return
        if self.hparams["finetune"] == "linear_probe":
            raise UserError("finetune=linear_probe has no training steps: call fit_linear_probe instead of Trainer.fit")
        if self.hparams["compile"]:
            self.net.compile()  # in place: the names in state_dict() do not change
        if self.hparams["finetune"] == "gradual" and self.trainer.world_size > 1:
            freezing.unfreeze(self.net, math.inf)  # DDP registers gradients only once; on_train_start freezes again

    def on_fit_start(self) -> None:
        """Checks that the head is solved if `head_start` requires it, unless a checkpoint contains it."""
        if self.hparams["head_start"] and not self.head_is_solved and not self.trainer.ckpt_path:
            raise UserError(f"head_start={self.hparams['head_start']} needs fit_linear_probe before Trainer.fit")

    def on_train_start(self) -> None:
        """Unfreezes the stages that are due, also in a resumed run, and sets the modules' train modes.

        Raises:
            UserError: `gradual` in several processes whose strategy ignores parameters without gradients.
        """
        if self.hparams["finetune"] == "gradual":
            several = self.trainer.world_size > 1
            if several and not getattr(self.trainer.model, "find_unused_parameters", False):
                raise UserError(
                    "finetune=gradual in several processes needs trainer.strategy=ddp_find_unused_parameters_true: "
                    "other strategies do not synchronise the gradients of the backbone"
                )
            freezing.unfreeze_due_stages(self.net, self.current_epoch, self.hparams)
        self.train()  # Lightning keeps the modes that it finds

    def on_train_epoch_start(self) -> None:
        """Unfreezes the stages that are due in this epoch."""
        if self.hparams["finetune"] == "gradual":
            freezing.unfreeze_due_stages(self.net, self.current_epoch, self.hparams)
            self.train()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the training loss of a batch, scalar.

        A batch without images gives a zero loss with zero gradients, so that other processes do not wait for it.
        """
        inputs, labels = batch[0], batch[1]  # (B, 3, H, W) or (B, D) float32, or uint8 images; (B,) int64
        if not len(labels):
            return self._zero_loss(inputs, labels)
        targets = labels
        if self.mixup is not None:
            inputs = normalise(inputs, self.input_spec).to(self.dtype) if inputs.dtype == torch.uint8 else inputs
            inputs, targets = self.mixup(inputs, labels)  # float32 (B, num_classes)
            labels = targets.argmax(dim=1)  # the class with the larger share
            batch = (inputs, targets)
        elif labels.is_floating_point():
            labels = labels.argmax(dim=1)
        try:
            logits = self._logits(batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            warnings.warn("skipped a batch of one image, on which batch norm fails: use larger batches", stacklevel=2)
            return self._zero_loss(inputs[:0], labels[:0])
        loss = self.train_loss(logits, targets)
        self._metrics("train").update(loss.detach(), logits.detach(), labels)
        self.log("train/step_loss", loss.detach(), prog_bar=True, batch_size=len(labels))
        return loss

    def _zero_loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        loss = 0.0 * torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum()
        self._metrics("train").update(loss.detach(), self._no_logits(inputs), labels)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Adds a batch to the validation metrics; returns its `logits` (B, num_classes)."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Adds a batch to the test metrics; returns its `logits` (B, num_classes)."""
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, stage: str) -> dict[str, Tensor]:
        labels = batch[1]
        logits = self._logits(batch) if len(labels) else self._no_logits(batch[0])
        loss = nn.functional.cross_entropy(logits, labels) if len(labels) else logits.sum()
        labels = labels.argmax(dim=1) if labels.is_floating_point() else labels
        self._metrics(stage).update(loss, logits, labels)
        return {"logits": logits}

    def _no_logits(self, inputs: Tensor) -> Tensor:
        """Returns the logits (0, num_classes) of an empty batch: no network runs on it."""
        return inputs.new_empty(0, len(self.classes), dtype=torch.float32)

    def _metrics(self, stage: str) -> Any:
        return self.metrics[f"{stage}_metrics"]

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Returns class probabilities (B, num_classes) of a batch, which may be images alone."""
        logits: Tensor = self(batch) if isinstance(batch, Tensor) else self._logits(batch)
        return logits.softmax(dim=-1)

    def on_train_epoch_end(self) -> None:
        """Logs train/loss and train/accuracy of the epoch."""
        self._log_metrics("train")

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss, val/accuracy, val/top5_accuracy and val/f1."""
        self._log_metrics("val", prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Logs test/loss, test/accuracy, test/top5_accuracy and test/f1; `class_report` returns those of each class."""
        scores = self._log_metrics("test")
        if scores:
            self._class_scores = scores["class_accuracy"].tolist(), scores["class_f1"].tolist()

    def _log_metrics(self, stage: str, *, prog_bar: bool = False) -> dict[str, Tensor]:
        """Logs and resets the metrics of a stage; {} if a subclass has its own step and never updated them."""
        metrics = self._metrics(stage)
        if not metrics.update_called:
            return {}
        scores: dict[str, Tensor] = metrics.compute()
        with torch.inference_mode(False):  # states made in inference mode could not be updated in a later fit
            metrics.reset()
        self.log_dict({f"{stage}/{name}": scores[name] for name in LOGGED[stage]}, prog_bar=prog_bar)
        return scores

    def class_report(self) -> list[dict[str, Any]]:
        """Returns class, name, accuracy (recall) and F1 of each class in the last test, in label order; [] before."""
        if self._class_scores is None:
            return []
        rows = zip(self.classes, self.class_names, *self._class_scores, strict=True)
        return [{"class": folder, "name": name, "accuracy": a, "f1": f} for folder, name, a, f in rows]

    def configure_optimizers(self) -> OptimizerConfig | OptimizerLRSchedulerConfig:
        """Returns the optimizer over the parameter groups of head and backbone, and its schedule by step.

        Raises:
            UserError: `optimizer` names no optimizer that trains in steps.
        """
        hp = self.hparams
        layered = hp["layer_decay"] != 1 or (hp["finetune"] == "gradual" and hp["unfreeze_every"])
        if layered and hp["finetune"] != "head" and not any(layer_depths(self.net, stages=False).values()):
            text = f"timm numbers no layers of {hp['model']}: layer_decay and unfreeze_every have no effect"
            warnings.warn(text, stacklevel=2)
        factor = {"head": 0.0, "full": 1.0, "gradual": hp["backbone_lr_factor"]}[hp["finetune"]]
        groups = parameter_groups(
            self.net, hp["lr"], hp["weight_decay"], backbone_factor=factor, layer_decay=hp["layer_decay"]
        )
        optimizer = create_optimizer(groups, hp, self.trainer)
        scheduler = create_scheduler(optimizer, hp["scheduler"], self.trainer)
        if scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
