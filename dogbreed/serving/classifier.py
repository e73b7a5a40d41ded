"""Runs the network of a model folder: pixels to probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dogbreed.errors import UserError
from dogbreed.serving.model_folder import load_net, read_card
from dogbreed.serving.runtime import Runtime, choose_runtime


class Classifier:
    """Maps images to class probabilities with the model of a folder, on the GPU if there is one.

    Attributes:
        card: Card of the model.
        runtime: What runs the network.

    Raises:
        UserError: the folder holds no model that can be loaded.
    """

    def __init__(self, folder: Path) -> None:
        self.card = read_card(folder)
        spec = self.card.input_spec
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._mean, self._std = (
            torch.tensor(values, device=self._device).mul_(255).view(3, 1, 1) for values in (spec.mean, spec.std)
        )
        net = load_net(folder, self.card).to(self._device).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            self.runtime: Runtime = choose_runtime(net, spec.height, spec.width)
        if not np.isfinite(self(torch.zeros(1, 3, spec.height, spec.width, dtype=torch.uint8))).all():
            raise UserError(f"model folder {folder}: the network outputs NaN or infinity; its training diverged")

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Returns probabilities (B, num_classes) for `pixels`, uint8 (B, 3, height, width)."""
        images = pixels.to(self._device).to(torch.float32, memory_format=self.runtime.memory_format)
        logits = self.runtime.forward(images.sub_(self._mean).div_(self._std))
        return logits.softmax(dim=-1).cpu().numpy()
