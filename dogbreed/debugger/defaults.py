"""Settings of reports that differ from AWS's defaults, which raise false alarms on healthy short trainings.

The rule functions' own defaults are AWS's. Reports use the values below instead, unless the configuration
(`debugger.rules.NAME.SETTING=...`) sets others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # AWS requires a choice of tensors. Weights should never be all zeros, explode or stay unchanged.
    "AllZero": {"collection_names": ["weights"]},
    "TensorVariance": {"collection_names": ["weights"], "max_threshold": 10.0},
    "UnchangedTensor": {"collection_names": ["weights"]},
    # The loss of a converged training is flat, and every training loss is noisy: compare the end with the start.
    "LossNotDecreasing": {"against": "start"},
    # A gap of a tenth of the loss in a single epoch is not overfitting.
    "Overfit": {"patience": 3, "ratio_threshold": 0.5, "min_gap": 0.2},
    # With few images per class, one mistake is more than a tenth; and no model is 90 % right on each of 100 breeds.
    "Confusion": {"min_diag": 0.5, "max_off_diag": 0.5, "confidence_z": 1.96},
}
