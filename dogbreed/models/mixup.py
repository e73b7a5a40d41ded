"""mixup and CutMix: batches of mixed images with mixed labels."""

from __future__ import annotations

from torch import nn
from torchvision.transforms import v2


def create_mixup(mixup: float, cutmix: float, num_classes: int) -> nn.Module | None:
    """Returns a module that mixes each batch of images with itself, None if both alphas are 0.

    It maps images float32 (B, 3, H, W) and labels int64 (B,) to images and soft targets float32 (B, num_classes). Its
    random numbers come from torch's global CPU generator, which checkpoints store.

    Args:
        mixup: Alpha of Zhang et al., mixup (2018), which blends images; 0.2 for short trainings, up to 1.
        cutmix: Alpha of Yun et al., CutMix (2019), which pastes a rectangle of another image. If both alphas are set,
            each batch uses one of the two at random.
        num_classes: Number of classes.
    """
    kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
    mixers = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    return v2.RandomChoice(mixers) if mixers else None
