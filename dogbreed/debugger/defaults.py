"""Our settings of the rules, where AWS's own defaults would cry wolf on a healthy short training.

The functions' own defaults are AWS's. What is listed here is used by reports instead, unless the configuration
(`debugger.rules.NAME.setting=...`) says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OURS: Mapping[str, Mapping[str, Any]] = {
    # AWS requires a choice of tensors; weights are what should never be all zeros, explode or stand still.
    "AllZero": {"collection_names": ["weights"]},
    "TensorVariance": {"collection_names": ["weights"], "max_threshold": 10.0},
    "UnchangedTensor": {"collection_names": ["weights"]},
    # The loss of a converged training is flat and that of any training is noisy: compare the end with the start.
    "LossNotDecreasing": {"against": "start"},
    # A gap of a tenth of the loss, once, is no overfitting.
    "Overfit": {"patience": 3, "ratio_threshold": 0.5, "min_gap": 0.2},
    # With few images a class, one mistake is more than a tenth; a hundred breeds are not told apart at 90 % each.
    "Confusion": {"min_diag": 0.5, "max_off_diag": 0.5, "confidence_z": 1.96},
}
