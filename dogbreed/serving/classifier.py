"""The network of a model folder, ready to answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dogbreed.errors import UserError
from dogbreed.serving.artifact import load_net, read_card


class Classifier:
    """Pictures to probabilities.

    Args:
        folder: As `artifact.write_model` leaves it.

    Attributes:
        card: Of the model.

    Raises:
        UserError: the folder holds no model that can be loaded.
    """

    def __init__(self, folder: Path) -> None:
        self.card = read_card(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.net = load_net(folder, self.card).to(self.device).to(memory_format=torch.channels_last)
        target = self.card.picture_format
        mean, std = (torch.tensor(v, device=self.device).mul_(255).view(3, 1, 1) for v in (target.mean, target.std))
        self._mean, self._std = mean, std
        if not np.isfinite(self(torch.zeros(1, 3, target.height, target.width, dtype=torch.uint8))).all():
            raise UserError(f"model folder {folder}: the network's answers are no numbers; its training went wrong")

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Returns probabilities (B, num_classes) for `pixels`, uint8 (B, 3, height, width)."""
        images = pixels.to(self.device).to(torch.float32, memory_format=torch.channels_last)
        images.sub_(self._mean).div_(self._std)
        return self.net(images).softmax(dim=-1).cpu().numpy()
