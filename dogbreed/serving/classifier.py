"""The network of a model folder, ready to answer."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from dogbreed.errors import UserError
from dogbreed.serving.bundle import load_net, read_card
from dogbreed.serving.runtime import Forward, fastest


class Classifier:
    """Images to probabilities.

    Args:
        folder: As `artifact.write_model` leaves it.

    Attributes:
        card: Of the model.
        form: What runs it, `pytorch` or `onnx`.

    Raises:
        UserError: the folder holds no model that can be loaded.
    """

    def __init__(self, folder: Path) -> None:
        self.card = read_card(folder)
        target = self.card.input_spec
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._mean, self._std = (
            torch.tensor(values, device=self._device).mul_(255).view(3, 1, 1) for values in (target.mean, target.std)
        )
        net = load_net(folder, self.card).to(self._device)
        self.form, self._forward = "pytorch", cast(Forward, net)
        if self._device.type == "cpu":
            with torch.inference_mode():
                self.form, self._forward = fastest(net, target.height, target.width)
        if not np.isfinite(self(torch.zeros(1, 3, target.height, target.width, dtype=torch.uint8))).all():
            raise UserError(f"model folder {folder}: the network's answers are no numbers; its training went wrong")

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Returns probabilities (B, num_classes) for `pixels`, uint8 (B, 3, height, width)."""
        layout = torch.channels_last if self.form == "pytorch" else torch.contiguous_format
        images = pixels.to(self._device).to(torch.float32, memory_format=layout).sub_(self._mean).div_(self._std)
        return self._forward(images).softmax(dim=-1).cpu().numpy()
