"""The head at its optimum: the one that mathematics knows, whatever the seed and the batches."""

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.models.linear_probe import LEFT_OUT, rows_of, solve
from dogbreed.run.train import train

DEMO = "demo://?classes=3&train=12&valid=6&test=6&size=32"
TINY = [
    "model=timm",
    "model.name=test_resnet",
    f"data.url='{DEMO}'",
    "trainer=cpu",
    "debugger=off",
    "data.augment=false",
]
LBFGS = [*TINY, "finetune=head", "optimizer=lbfgs"]


@pytest.fixture
def problem():
    """Returns features (200, 30) with the offset that those behind a ReLU have, and labels of 5 classes."""
    rng = np.random.default_rng(0)
    return (3 + rng.standard_normal((200, 30))).astype(np.float32), rng.integers(0, 5, 200)


@pytest.mark.parametrize(("weight_decay", "smoothing"), [(1e-3, 0.0), (0.1, 0.1)])
def test_nothing_is_below_the_optimum(problem, weight_decay, smoothing):
    features, labels = problem
    settings = {"weight_decay": weight_decay, "label_smoothing": smoothing}
    weight, bias = (part.double().requires_grad_() for part in solve([features], [labels], 5, **settings))
    logits = torch.tensor(features).double() @ weight.T + bias
    loss = nn.functional.cross_entropy(logits, torch.tensor(labels), label_smoothing=smoothing)
    objective = loss + weight_decay / 2 * weight.square().sum()
    objective.backward()
    assert bias.grad.abs().max() < 1e-4
    # The objective is convex, and in the weights strongly so: no head is further below this one.
    assert weight.grad.square().sum() / (2 * weight_decay) < 1e-4 * objective


def test_views_count_together_and_what_is_left_out_does_not(problem):
    features, labels = problem
    expected = solve([features], [labels], 5, weight_decay=0.01)
    nothing = np.zeros((3, 30), dtype=np.float32), np.full(3, LEFT_OUT)
    views = [features[:50], np.concatenate([features[50:], nothing[0]])]
    found = solve(views, [labels[:50], np.concatenate([labels[50:], nothing[1]])], 5, weight_decay=0.01)
    assert all(torch.allclose(*pair, atol=1e-3) for pair in zip(found, expected, strict=True))


def test_it_is_scikit_learns_logistic_regression(problem):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = problem
    weight, bias = solve([features], [labels], 5, weight_decay=0.01)
    theirs = linear_model.LogisticRegression(C=1 / (200 * 0.01), tol=1e-8, max_iter=5000)
    theirs.fit(features.astype(float), labels)
    np.testing.assert_allclose(weight, theirs.coef_, atol=1e-3)
    probabilities = (torch.tensor(features) @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(probabilities, theirs.predict_proba(features), atol=1e-3)


def run(tmp_path, monkeypatch, *typed, base=LBFGS):
    monkeypatch.setenv("DOGBREED_FEATURES", str(tmp_path / "features"))
    output = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
    return train(resolve_defaults(compose("train", [*base, "model.weights=random", f"output_dir={output}", *typed])))


def weights(results):
    state = torch.load(results["checkpoint"], weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("net.")}


def test_a_solved_head_needs_no_rate_and_no_step_goes_below_its_loss(tmp_path, monkeypatch):
    solved = run(tmp_path, monkeypatch)
    assert list(solved["epochs"]) == [0]
    other = run(tmp_path, monkeypatch, "batch_size=7", "lr=1e3", "trainer.max_epochs=2")
    first, second = weights(solved), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert other["epochs"][0]["val/loss"] == pytest.approx(solved["epochs"][0]["val/loss"], rel=1e-5)
    stepped = run(
        tmp_path, monkeypatch, "optimizer=adam", "weight_decay=0.01", "head_start=null", "epochs=10", "lr=0.01"
    )
    assert solved["epochs"][0]["train/loss"] < stepped["epochs"][9]["train/loss"]


def test_fine_tuning_begins_at_the_solved_head(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    still = ["head_start=solved", "lr=0", "epochs=1", "freeze_norms=true", "data.augment=true"]
    solved, full = run(tmp_path, monkeypatch), run(tmp_path, monkeypatch, *still, "finetune=full", base=TINY)
    assert full["epochs"][0]["val/loss"] == pytest.approx(solved["epochs"][0]["val/loss"], rel=1e-4)
    for name, value in weights(solved).items():
        assert torch.allclose(value.float(), weights(full)[name].float(), atol=1e-4), name  # norms did not move either
    assert caplog.text.count("the head is solved") == 2
    moved = run(tmp_path, monkeypatch, *still, "lr=1e-3", "finetune=gradual", "unfreeze_epoch=0", base=TINY)
    assert math.isfinite(moved["epochs"][0]["train/loss"])


def test_the_head_stays_near_the_pretrained_rows_that_fit(problem, tmp_path, monkeypatch):
    features, labels = problem
    known = solve([features], [labels], 5, weight_decay=0.01)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = known[0][order], known[1][order]
    assert torch.equal(rows_of(shuffled, features, labels, 5)[0], known[0])
    near = solve([features], [labels], 5, weight_decay=1e4, near=known)
    assert torch.allclose(near[0], known[0], atol=1e-3)
    source = timm.create_model("test_resnet", num_classes=1000).state_dict()
    torch.save(source, tmp_path / "w.pth")
    typed = ["head_start=pretrained", f"model.weights={tmp_path}/w.pth", "weight_decay=1e4", "tta=true"]
    head = weights(run(tmp_path, monkeypatch, *typed))["net.fc.weight"]
    assert torch.cdist(head, source["fc.weight"]).min(dim=1).values.max() < 1e-3
    best = run(tmp_path, monkeypatch, "experiment=best", typed[1], base=TINY)
    assert list(best["epochs"]) == [0] and math.isfinite(best["epochs"][0]["val/loss"])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["features=off"], "need kept features"),
        (["data.augment=true"], "head_start=solved cannot be had: data.augment=true"),
        (["weight_decay=0"], "an optimum only with a weight_decay above 0"),
        (["model.name=test_convnext", "+model.kwargs.drop_rate=0.5"], "more than one linear layer"),
        (["finetune=full"], "optimizer=lbfgs"),
        (["head_start=pretrained"], "model.weights=random hold no linear classifier"),
    ],
)
def test_what_can_not_be_solved_is_one_line(tmp_path, monkeypatch, typed, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, monkeypatch, *typed)
