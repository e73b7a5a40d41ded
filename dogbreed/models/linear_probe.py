"""Linear probe: multinomial logistic regression on the features of a frozen backbone, solved by L-BFGS.

The objective is convex, so the result depends on no seed, batch size, order or learning rate. Fine-tuning can start
from it too (Kumar et al., Fine-Tuning can Distort Pretrained Features, ICLR 2022). If the pretrained classifier knows
the classes, weights can be regularised towards its rows instead of zero, which helps most with few images.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dogbreed.errors import UserError
from dogbreed.models.heads import head_names

if TYPE_CHECKING:
    from dogbreed.models.classifier import ImageClassifier

log = logging.getLogger(__name__)

IGNORED = -100
"""Label of a row that is excluded from the fit."""

_CHUNK_ROWS = 16_384
"""Rows on the device at a time: features larger than memory are read from their file in every iteration."""

_GRADIENT_TOLERANCE = 1e-5
"""Largest entry of the gradient at which the solver stops."""

_MAX_ITERATIONS = 1000

_KNOWN_ACCURACY = 0.6
"""Training accuracy of the pretrained classifier's own rows, below which it hardly helps."""


class Head(NamedTuple):
    """A linear classifier."""

    weight: Tensor
    """float32 (C, D)."""
    bias: Tensor
    """float32 (C,)."""


def solve(
    features: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int64]],
    num_classes: int,
    *,
    weight_decay: float,
    label_smoothing: float = 0.0,
    balanced: bool = False,
    prior: Head | None = None,
    device: torch.device | str = "cpu",
) -> Head:
    """Returns the linear head that minimises

        mean cross-entropy + weight_decay / 2 * sum of (weight - prior.weight) ** 2

    which without a prior is scikit-learn's `LogisticRegression(C=1 / (N * weight_decay))`.

    Args:
        features: (N, D) arrays; the rows of all arrays, such as several views of the images, count equally.
        labels: int64 (N,) for each array; rows labelled `IGNORED` are excluded.
        num_classes: Number of classes C.
        weight_decay: L2 regularisation, above 0: separable classes have no optimum without it.
        label_smoothing: Fraction of the target that is spread over all classes.
        balanced: Weights rows so that all classes that occur count equally.
        prior: Head towards whose weight the solution is regularised, and the start of the solver; None for zero.
        device: Device to solve on.

    Raises:
        UserError: `weight_decay` is 0.
    """
    if weight_decay <= 0:
        raise UserError("weight_decay=0: a linear probe needs a weight_decay above 0, such as 0.01")
    class_weights = _balancing_weights(labels, num_classes).to(device) if balanced else None
    num_rows = sum(int((part != IGNORED).sum()) for part in labels)
    # Centred features have the same optimum with another bias, and need fewer iterations.
    centre = torch.stack([rows.sum(dim=0) for rows, _ in _chunks(features, labels, device)]).sum(dim=0) / num_rows
    prior_weight, prior_bias = prior or (torch.zeros(num_classes, len(centre)), torch.zeros(num_classes))
    prior_weight = prior_weight.to(device)
    weight = prior_weight.clone().requires_grad_()
    bias = (prior_bias.to(device) + prior_weight @ centre).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MAX_ITERATIONS, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=_GRADIENT_TOLERANCE, tolerance_change=0.0,
    )  # fmt: skip
    reduction = "sum" if class_weights is None else "none"
    loss = nn.CrossEntropyLoss(reduction=reduction, label_smoothing=label_smoothing, ignore_index=IGNORED)

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=device)
        for rows, targets in _chunks(features, labels, device):
            part = loss(nn.functional.linear(rows, weight, bias - weight @ centre), targets)
            if class_weights is not None:
                part = (part * class_weights[targets.clamp_min(0)]).sum()
            part = part / num_rows
            part.backward()
            total += part.detach()
        penalty = weight_decay / 2 * (weight - prior_weight).square().sum()
        penalty.backward()
        return total + penalty.detach()

    optimizer.step(objective)
    objective()
    gradient = max(float(parameter.grad.abs().max()) for parameter in (weight, bias))  # type: ignore[union-attr]
    if gradient > 10 * _GRADIENT_TOLERANCE:
        log.warning("the linear probe did not converge (gradient %.1e): increase weight_decay", gradient)
    return Head(weight.detach(), (bias - weight @ centre).detach())


def _balancing_weights(labels: Sequence[NDArray[np.int64]], num_classes: int) -> Tensor:
    """Returns the weight of a row of each class, float32 (C,), with a mean of 1 over all rows."""
    known = np.concatenate([part[part != IGNORED] for part in labels])
    counts = np.bincount(known, minlength=num_classes)
    num_present = max(1, int((counts > 0).sum()))
    return torch.from_numpy(len(known) / (num_present * counts.clip(1))).float()


@torch.no_grad()
def matching_rows(pretrained: Head, features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> Head:
    """Returns the row of a pretrained head that is most probable for the images of each class.

    `features` (N, D); `labels` int64 (N,), where rows labelled `IGNORED` are excluded.
    """
    weight, bias = pretrained
    probability = torch.zeros(num_classes, len(bias))
    for rows, targets in _chunks([features], [labels], "cpu"):
        known = targets != IGNORED
        probability.index_add_(0, targets[known], nn.functional.linear(rows[known], weight, bias).softmax(dim=1))
    best = probability.argmax(dim=1)
    return Head(weight[best], bias[best])


def fit_linear_probe(
    model: ImageClassifier,
    features: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int64]],
    *,
    balanced: bool = False,
) -> dict[str, float]:
    """Replaces the head of `model` by the optimum for cached features of its frozen backbone.

    Uses the model's hyperparameters `weight_decay`, `label_smoothing` and `head_start`; the latter decides whether the
    head is regularised towards the pretrained classifier.

    Args:
        model: A classifier with a linear head.
        features: float32 (N, D) arrays: one or several views of the training images.
        labels: int64 (N,) for each array; rows labelled `IGNORED` are excluded.
        balanced: Weights images so that all classes count equally.

    Returns:
        `train/loss` (with label smoothing) and `train/accuracy` over the first view.

    Raises:
        UserError: `weight_decay` is 0.
    """
    started, hp = time.monotonic(), model.hparams
    head = model.get_submodule(f"net.{head_names(model.net)[0]}")
    num_classes = len(model.classes)
    prior = None
    if model.pretrained_head is not None:
        prior = matching_rows(Head(*model.pretrained_head), features[0], labels[0], num_classes)
        known = _training_metrics(prior, features[0], labels[0], 0.0)["train/accuracy"]
        if known < _KNOWN_ACCURACY:
            log.warning(
                "the pretrained classifier recognises only %.0f %% of the training images: head_start=%s is usually "
                "better for classes that it does not know",
                100 * known, "null" if hp["finetune"] == "linear_probe" else "solved",
            )  # fmt: skip
    solution = solve(
        features, labels, num_classes, weight_decay=hp["weight_decay"], label_smoothing=hp["label_smoothing"],
        balanced=balanced, prior=prior, device=model.device,
    )  # fmt: skip
    head.load_state_dict(solution._asdict())
    model.head_is_solved = True
    log.info("linear probe solved in %.1f s", time.monotonic() - started)
    return _training_metrics(solution, features[0], labels[0], hp["label_smoothing"])


@torch.no_grad()
def _training_metrics(
    head: Head, features: NDArray[np.float32], labels: NDArray[np.int64], label_smoothing: float
) -> dict[str, float]:
    loss = hits = count = 0.0
    for rows, targets in _chunks([features], [labels], head.weight.device):
        known = targets != IGNORED
        logits, truth = nn.functional.linear(rows[known], *head), targets[known]
        loss += float(nn.functional.cross_entropy(logits, truth, reduction="sum", label_smoothing=label_smoothing))
        hits += float((logits.argmax(dim=1) == truth).sum())
        count += len(truth)
    return {"train/loss": loss / count, "train/accuracy": hits / count}


def _chunks(
    features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]], device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    for rows, targets in zip(features, labels, strict=True):
        for start in range(0, len(rows), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            yield torch.tensor(rows[part], device=device), torch.tensor(targets[part], device=device)
