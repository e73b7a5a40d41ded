"""ImageClassifier: transfer learning of any timm network as a LightningModule."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from hydra.utils import instantiate
from pytorch_lightning.utilities.types import OptimizerConfig, OptimizerLRSchedulerConfig
from torch import Tensor, nn

from dogbreed.data.classes import parse_class
from dogbreed.errors import UserError
from dogbreed.models import backbones as backbone
from dogbreed.models import param_groups as groups
from dogbreed.models import schedules
from dogbreed.models.hyperparameters import Hyperparameters
from dogbreed.models.metrics import Metrics
from dogbreed.models.mixup import mixing
from dogbreed.models.quick import QuickModule

log = logging.getLogger(__name__)


class ImageClassifier(QuickModule):
    """A timm network with a head for `classes`, trained with cross-entropy.

    All arguments are plain strings, numbers and dicts, and are kept in every checkpoint:
    `ImageClassifier.load_from_checkpoint(path)` needs nothing else, no network either.

    Args:
        model: Name of a timm model.
        classes: Folder names in label order, `["001.Affenpinscher", ...]`.
        hyperparameters: How to train; None for the defaults. Fields may also be given as keywords, which take
            precedence: `ImageClassifier("resnet18", classes, lr=1e-3)`. See `Hyperparameters` for names and defaults.
        weights: `hub` (timm's pretrained weights), `random`, or the path of a .safetensors or .pth file.
        optimizer: `{"_target_": "torch.optim.AdamW", ...}`; None for AdamW.
        scheduler: `{"_target_": "dogbreed.models.schedules.cosine", ...}`; None for a constant learning rate.
        model_kwargs: Passed to `timm.create_model`.
        **overrides: Fields of `Hyperparameters`.

    Attributes:
        net: the timm model, (B, 3, H, W) float32 normalised images to (B, num_classes) logits.
        data_config: input_size, mean, std, interpolation, crop_pct of the images that `net` expects.

    Raises:
        UserError: an unknown model or choice, or weights that cannot be had.
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
        **overrides: Any,
    ) -> None:
        super().__init__()
        hp = (hyperparameters or Hyperparameters()).replace(**overrides)
        finetune = hp.finetune = hp.finetune or "head"
        if finetune != "head" and (optimizer or {}).get("_target_") == "dogbreed.models.linear_probe.AtOptimum":
            raise UserError(
                f"optimizer=lbfgs solves the head alone, not finetune={finetune}: type finetune=head, or another "
                "optimizer with head_start=solved, which trains on from there"
            )
        if len(classes) < 2:
            raise UserError(f"a classifier needs at least two classes, got {list(classes)}")
        optimizer, scheduler, model_kwargs = dict(optimizer or {}), dict(scheduler or {}), dict(model_kwargs or {})
        classes = list(classes)
        self.save_hyperparameters(ignore=["hyperparameters"], logger=False)  # also the arguments of a subclass
        structures = {"optimizer": optimizer, "scheduler": scheduler, "model_kwargs": model_kwargs}
        self.hparams.update({**asdict(hp), "classes": classes, **structures})  # plain data: loads without pickle
        self.classes = classes
        self.class_names = [parse_class(folder).name for folder in classes]
        self.net = backbone.create(model, len(classes), weights, model_kwargs)
        self.data_config = backbone.data_config(self.net)
        if hp.channels_last:
            self.net.to(memory_format=torch.channels_last)
        if finetune != "full":
            groups.unfreeze(self.net, 0)
        if hp.tta:
            backbone.answer_for_both_sides(self.net)
        self.head_is_solved = False
        self.pretrained_head = (
            backbone.pretrained_head(self.net, model, weights, model_kwargs) if hp.head_start == "pretrained" else None
        )
        self.mix = mixing(hp.mixup, hp.cutmix, len(classes))
        self.loss = nn.CrossEntropyLoss(label_smoothing=hp.label_smoothing)
        self.metrics = Metrics(len(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, num_classes) for normalised float32 `images` (B, 3, H, W)."""
        if self.hparams["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.net(images)

    def train(self, mode: bool = True) -> ImageClassifier:
        """Sets train mode; what is frozen stays in eval mode, so that its batch norms do not move."""
        super().train(mode)
        if mode and self.hparams["finetune"] == "head":
            backbone.train_head_only(self.net)
        elif mode and self.hparams["finetune"] == "gradual":
            groups.train_unfrozen(self.net)
        if mode and self.hparams["freeze_norms"]:
            backbone.freeze_norms(self.net)
        return self

    def setup(self, stage: str) -> None:
        """Compiles, and shows all parameters to DDP, which looks only once for those whose gradients it has to share.

        Raises:
            UserError: `gradual` under a strategy that waits for the gradients of frozen parameters, or knows none; or
                nobody has solved the head.
        """
        if stage != "fit":
            return
        if self.hparams["head_start"] and not self.head_is_solved:
            raise UserError("head_start and optimizer=lbfgs need kept features: leave features=off out")
        if self.hparams["compile"]:
            self.net.compile()  # in place: the names in state_dict() stay as they are
        if self.trainer.world_size > 1 and self.hparams["finetune"] == "gradual":
            if not getattr(self.trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters"):
                raise UserError(
                    "finetune=gradual in several processes needs trainer.strategy=ddp_find_unused_parameters_true: "
                    "any other would not share what the backbone learns"
                )
            groups.unfreeze(self.net, math.inf)  # until on_train_start

    def on_train_start(self) -> None:
        """Unfreezes what is due, also when a training is resumed after it, within an epoch too.

        Lightning leaves the modes of the modules as it finds them, so they are set here.
        """
        hp = self.hparams
        if hp["finetune"] == "gradual":
            _, before = backbone.count_parameters(self.net)
            due = groups.num_stages_at(self.current_epoch, hp["unfreeze_epoch"], hp["unfreeze_every"])
            groups.unfreeze(self.net, due)
            _, trained = backbone.count_parameters(self.net)
            if trained > before:
                log.info("epoch %d: %.2f M parameters are trained from here on", self.current_epoch, trained / 1e6)
        self.train()

    def on_train_epoch_start(self) -> None:
        """Does so anew where an epoch may unfreeze more."""
        if self.hparams["finetune"] == "gradual":
            self.on_train_start()

    def _step(self, stage: str, batch: Any) -> Tensor:
        images, labels = batch[0], batch[1]  # (B, 3, H, W) float32, (B,) int64
        targets = labels
        if stage == "train" and self.mix is not None:
            images, targets = self.mix(images, labels)  # float32 (B, num_classes)
            labels = targets.argmax(dim=1)  # of what there is more of
        logits = self(images)
        loss: Tensor = self.loss(logits, targets)
        self.metrics.update(stage, loss.detach(), logits.detach(), labels)
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Returns the mean loss of a batch `(images, labels, ...)`; None, and Lightning goes on, for an empty one."""
        if not len(batch[1]):  # none of its images could be read
            return None
        loss = self._step("train", batch)
        trainer: Any = self.trainer
        if trainer.accumulate_grad_batches > 1 or (self.global_step + 1) % trainer.log_every_n_steps == 0:
            self.log("train/step_loss", loss.detach(), prog_bar=True, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Adds a batch to the validation metrics."""
        if len(batch[1]):
            self._step("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Adds a batch to the test metrics, also per class."""
        if len(batch[1]):
            self._step("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns class probabilities (B, num_classes) of a batch `(images, ...)`."""
        return self(batch[0]).softmax(dim=-1)

    def on_train_epoch_end(self) -> None:
        """Logs train/loss and train/accuracy of the epoch."""
        self.log_dict(self.metrics.compute("train"))

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss, val/accuracy, val/top5_accuracy and val/f1."""
        self.log_dict(self.metrics.compute("val"), prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics; those of each class stay in `class_report()`."""
        self.log_dict(self.metrics.compute("test"))

    def class_report(self) -> list[dict[str, Any]]:
        """Returns class, name, accuracy (recall) and F1 of each class over the last test, in label order."""
        rows = zip(self.classes, self.class_names, *self.metrics.of_classes(), strict=True)
        return [{"class": folder, "name": name, "accuracy": a, "f1": f} for folder, name, a, f in rows]

    def on_test_epoch_start(self) -> None:
        """Forgets the classes' figures of an earlier test."""
        self.metrics.forget_classes()

    def configure_optimizers(self) -> OptimizerConfig | OptimizerLRSchedulerConfig:
        """Returns the optimizer over the groups of head and backbone, and its schedule by step."""
        hp = self.hparams
        factor = {"head": 0.0, "full": 1.0, "gradual": hp["backbone_lr_factor"]}[hp["finetune"]]
        rates = groups.parameter_groups(
            self.net, hp["lr"], hp["weight_decay"], backbone_factor=factor, layer_decay=hp["layer_decay"]
        )
        config = {"_target_": "torch.optim.AdamW", **hp["optimizer"]}
        optimizer = instantiate(config, _partial_=True)(rates, lr=hp["lr"], weight_decay=hp["weight_decay"])
        schedule = schedules.by_step(optimizer, hp["scheduler"], self.trainer)
        if schedule is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes that the weights lie in the checkpoint itself, so that loading it asks neither hub nor file."""
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] |= {"weights": "random", "head_start": None}
