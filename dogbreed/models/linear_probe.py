"""The head at its optimum: multinomial logistic regression on kept features, solved by L-BFGS over all of them at once.

There is one optimum, so nothing depends on a seed, an order, a batch size or a learning rate, and no head that is
trained step by step on the same features gets below its loss. `optimizer=lbfgs` stays there; with `finetune=full` or
`gradual`, `head_start=solved` begins there (Kumar et al., Fine-Tuning can Distort Pretrained Features, ICLR 2022).
With `head_start=pretrained` weights are held close not to zero, but to what the pretrained classifier knows of the
class it takes each of ours for: where it knows them, few images of ours do what many of its own once did.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dogbreed.errors import UserError
from dogbreed.models import backbones as backbone

if TYPE_CHECKING:
    from dogbreed.features.store import Features

log = logging.getLogger(__name__)

_CHUNK = 16_384
"""Rows at once: features that do not fit into memory are read from their file in each iteration."""

_GRADIENT = 1e-5
"""Largest entry of the gradient at which the optimum is reached."""

_ITERATIONS = 1000

Head = tuple[Tensor, Tensor]
"""Weight (C, D) and bias (C,), float32."""

LEFT_OUT = -100
"""Label of a row that does not count."""


def solve(
    features: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int64]],
    num_classes: int,
    *,
    weight_decay: float,
    label_smoothing: float = 0.0,
    near: Head | None = None,
    device: torch.device | str = "cpu",
) -> Head:
    """Returns the linear head with the least

        mean cross-entropy + weight_decay / 2 * sum of (weight - near) ** 2

    which for `near` 0 is scikit-learn's `LogisticRegression(C=1 / (N * weight_decay))`.

    Args:
        features: (N, D) each, views of the same images or of others: the rows of all count together.
        labels: (N,) of each; rows with `LEFT_OUT` do not count, and are zeros.
        num_classes: C.
        weight_decay: Above 0: classes that can be told apart have no optimum without.
        label_smoothing: Share of the target that is spread over all classes.
        near: The head whose weight is held on to; None: 0.
        device: Where to solve.

    Raises:
        UserError: weight_decay is 0.
    """
    if weight_decay <= 0:
        raise UserError("weight_decay=0: a head has an optimum only with a weight_decay above 0, such as 0.01")
    num_rows = sum(int((part != LEFT_OUT).sum()) for part in labels)
    # The bias is that of centred features: the same optimum, to which fewer iterations lead.
    centre = torch.stack([rows.sum(dim=0) for rows, _ in _chunks(features, labels, device)]).sum(dim=0) / num_rows
    anchor, first = near or (torch.zeros(num_classes, len(centre)), torch.zeros(num_classes))
    anchor = anchor.to(device)
    weight = anchor.clone().requires_grad_()
    bias = (first.to(device) + anchor @ centre).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=_GRADIENT, tolerance_change=0.0,
    )  # fmt: skip
    loss = nn.CrossEntropyLoss(reduction="sum", label_smoothing=label_smoothing, ignore_index=LEFT_OUT)

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=device)
        for rows, targets in _chunks(features, labels, device):
            part = loss(nn.functional.linear(rows, weight, bias - weight @ centre), targets) / num_rows
            part.backward()
            total += part.detach()
        penalty = weight_decay / 2 * (weight - anchor).square().sum()
        penalty.backward()
        return total + penalty.detach()

    optimizer.step(objective)
    objective()
    gradient = max(float(parameter.grad.abs().max()) for parameter in (weight, bias))  # type: ignore[union-attr]
    if gradient > 10 * _GRADIENT:
        log.warning("the head is not quite at its optimum (gradient %.1e): more weight_decay helps", gradient)
    return weight.detach(), (bias - weight @ centre).detach()


@torch.no_grad()
def rows_of(pretrained: Head, features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> Head:
    """Returns a head of the rows of a pretrained one, for each class the row that is most probable for its images.

    Args:
        pretrained: Of the classes of its own training.
        features: (N, D).
        labels: (N,), with `LEFT_OUT` where rows do not count.
        num_classes: C.
    """
    weight, bias = pretrained
    probable = torch.zeros(num_classes, len(bias))
    for rows, targets in _chunks([features], [labels], "cpu"):
        counts = targets != LEFT_OUT
        probable.index_add_(0, targets[counts], nn.functional.linear(rows[counts], weight, bias).softmax(dim=1))
    best = probable.argmax(dim=1)
    return weight[best], bias[best]


def solve_head(model: Any, views: list[Features], labels: NDArray[np.int64]) -> None:
    """Puts the head of `model` at its optimum for what is kept of train, and says how long that took."""
    began, hparams = time.monotonic(), model.hparams
    known = [labels.copy() for _ in views]
    for view, copied in zip(views, known, strict=True):
        copied[list(view.problems)] = LEFT_OUT
    (name,) = backbone.head_names(model.get_submodule("net"))
    head: Any = model.get_submodule(f"net.{name}")
    values, known_rows = [view.values for view in views], model.pretrained_head
    near = rows_of(known_rows, values[0], known[0], head.out_features) if known_rows else None
    weight, bias = solve(
        values, known, head.out_features, weight_decay=hparams["weight_decay"],
        label_smoothing=hparams["label_smoothing"], near=near, device=model.device,
    )  # fmt: skip
    head.load_state_dict({"weight": weight, "bias": bias})
    model.head_is_solved = True
    log.info("the head is solved, in %.1f s", time.monotonic() - began)


def _chunks(
    features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]], device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    for rows, targets in zip(features, labels, strict=True):
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield torch.tensor(rows[part], device=device), torch.tensor(targets[part], device=device)


class AtOptimum(torch.optim.Optimizer):
    """Moves nothing: `optimizer=lbfgs`, whose head is at its optimum before the first step."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Returns the loss."""
        return None if closure is None else closure()
