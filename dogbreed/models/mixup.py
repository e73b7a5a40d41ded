"""mixup and CutMix: batches of mixed images and mixed labels."""

from __future__ import annotations

from torch import nn
from torchvision.transforms import v2


def mixing(mixup: float, cutmix: float, num_classes: int) -> nn.Module | None:
    """Returns what mixes a batch of images with itself on its device, None where both alphas are 0.

    Takes images float (B, 3, H, W) and labels int64 (B,), and returns images and targets, float (B, num_classes) that
    add up to 1 in each row. The random numbers are torch's global ones on the CPU, which a checkpoint keeps.

    Args:
        mixup: Alpha of Zhang et al., mixup (2018): images are blended; 0.2 for short trainings, up to 1.
        cutmix: Alpha of Yun et al., CutMix (2019): a rectangle is pasted in from another image. Where both are
            given, each batch has one or the other.
        num_classes: Of the labels.
    """
    kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
    mixers = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    return v2.RandomChoice(mixers) if mixers else None
