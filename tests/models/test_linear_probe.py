"""The linear probe reaches the optimum of its objective, independent of seed and batches."""

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from dogbreed import ImageClassifier
from dogbreed.cli.config import compose, resolve_defaults
from dogbreed.errors import UserError
from dogbreed.models.linear_probe import IGNORED, Head, fit_linear_probe, matching_rows, solve
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
PROBE = [*TINY, "finetune=linear_probe"]


@pytest.fixture
def problem():
    """Returns features (200, 30) with an offset, as after a ReLU, and labels of 5 classes."""
    rng = np.random.default_rng(0)
    return (3 + rng.standard_normal((200, 30))).astype(np.float32), rng.integers(0, 5, 200)


@pytest.mark.parametrize(("weight_decay", "smoothing"), [(1e-3, 0.0), (0.1, 0.1)])
def test_solve_reaches_the_minimum_of_the_objective(problem, weight_decay, smoothing):
    features, labels = problem
    settings = {"weight_decay": weight_decay, "label_smoothing": smoothing}
    weight, bias = (part.double().requires_grad_() for part in solve([features], [labels], 5, **settings))
    logits = torch.tensor(features).double() @ weight.T + bias
    loss = nn.functional.cross_entropy(logits, torch.tensor(labels), label_smoothing=smoothing)
    objective = loss + weight_decay / 2 * weight.square().sum()
    objective.backward()
    assert bias.grad.abs().max() < 1e-4
    # The objective is convex, and strongly convex in the weights, which bounds the distance to its minimum.
    assert weight.grad.square().sum() / (2 * weight_decay) < 1e-4 * objective


def test_solve_counts_all_views_and_excludes_ignored_rows(problem):
    features, labels = problem
    expected = solve([features], [labels], 5, weight_decay=0.01)
    ignored = np.zeros((3, 30), dtype=np.float32), np.full(3, IGNORED)
    views = [features[:50], np.concatenate([features[50:], ignored[0]])]
    found = solve(views, [labels[:50], np.concatenate([labels[50:], ignored[1]])], 5, weight_decay=0.01)
    assert all(torch.allclose(*pair, atol=1e-3) for pair in zip(found, expected, strict=True))


def test_solve_equals_scikit_learn(problem):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = problem
    weight, bias = solve([features], [labels], 5, weight_decay=0.01)
    theirs = linear_model.LogisticRegression(C=1 / (200 * 0.01), tol=1e-8, max_iter=5000)
    theirs.fit(features.astype(float), labels)
    np.testing.assert_allclose(weight, theirs.coef_, atol=1e-3)
    probabilities = (torch.tensor(features) @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(probabilities, theirs.predict_proba(features), atol=1e-3)


def test_solve_balanced_equals_repeating_the_small_class(problem):
    features, _ = problem
    labels = (np.arange(200) >= 150).astype(np.int64)  # 150 images and 50
    balanced = solve([features], [labels], 2, weight_decay=0.01, balanced=True)
    plain = solve([features], [labels], 2, weight_decay=0.01)
    rows = np.concatenate([np.arange(150), *[np.arange(150, 200)] * 3])
    repeated = solve([features[rows]], [labels[rows]], 2, weight_decay=0.01)
    assert torch.allclose(balanced.weight, repeated.weight, atol=1e-3)
    assert not torch.allclose(balanced.weight, plain.weight, atol=1e-2)


def run(tmp_path, monkeypatch, *overrides, base=PROBE):
    monkeypatch.setenv("DOGBREED_FEATURES", str(tmp_path / "features"))
    output = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
    given = [*base, "model.weights=random", f"output_dir={output}", *overrides]
    return train(resolve_defaults(compose("train", given)))


def weights(results):
    state = torch.load(results["checkpoint"], weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("net.")}


def test_probe_depends_on_no_step_and_beats_training_by_steps(tmp_path, monkeypatch):
    solved = run(tmp_path, monkeypatch)
    assert list(solved["epochs"]) == [0]
    assert set(solved["epochs"][0]) == {
        f"{stage}/{kind}"
        for stage, kinds in {"train": ("loss", "accuracy"), "val": ("loss", "accuracy", "top5_accuracy", "f1")}.items()
        for kind in kinds
    }
    other = run(tmp_path, monkeypatch, "batch_size=7", "lr=1e3", "optimizer=lbfgs", "finetune=linear_probe")
    first, second = weights(solved), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert other["epochs"][0]["val/loss"] == pytest.approx(solved["epochs"][0]["val/loss"], rel=1e-5)
    stepped = run(tmp_path, monkeypatch, "finetune=head", "optimizer=adam", "epochs=10", "lr=0.01")
    assert solved["epochs"][0]["train/loss"] < stepped["epochs"][9]["train/loss"]


def test_probe_of_unbalanced_data_honours_balanced(tmp_path, monkeypatch, write_images):
    images = write_images(tmp_path / "images", {"train/a": 12, "train/b": 3, "valid/a": 3, "valid/b": 3})
    folder = ["data=folder", f"data.url={images}", "weight_decay=1"]
    plain, balanced = (run(tmp_path, monkeypatch, *folder, f"data.balanced={value}") for value in ("false", "true"))
    assert not torch.allclose(weights(plain)["net.fc.bias"], weights(balanced)["net.fc.bias"], atol=1e-2)


def test_fine_tuning_starts_from_the_solved_head(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    still = ["head_start=solved", "lr=0", "epochs=1", "freeze_norms=true", "data.augment=true"]
    solved, full = run(tmp_path, monkeypatch), run(tmp_path, monkeypatch, *still, "finetune=full", base=TINY)
    assert full["epochs"][0]["val/loss"] == pytest.approx(solved["epochs"][0]["val/loss"], rel=1e-4)
    for name, value in weights(solved).items():
        assert torch.allclose(value.float(), weights(full)[name].float(), atol=1e-4), (
            name
        )  # norms did not change either
    assert caplog.text.count("linear probe solved") == 2
    moved = run(tmp_path, monkeypatch, *still, "lr=1e-3", "finetune=gradual", "unfreeze_epoch=0", base=TINY)
    assert math.isfinite(moved["epochs"][0]["train/loss"])
    last = tmp_path / "run1" / "checkpoints" / "last.ckpt"
    resumed = run(tmp_path, monkeypatch, *still, "epochs=2", "finetune=full", f"resume_from={last}", base=TINY)
    assert list(resumed["epochs"]) == [0, 1] and caplog.text.count("linear probe solved") == 3  # not solved again


def test_pretrained_start_stays_near_the_matching_rows(problem, tmp_path, monkeypatch):
    features, labels = problem
    known = solve([features], [labels], 5, weight_decay=0.01)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = Head(known.weight[order], known.bias[order])
    assert torch.equal(matching_rows(shuffled, features, labels, 5).weight, known.weight)
    near = solve([features], [labels], 5, weight_decay=1e4, prior=known)
    assert torch.allclose(near.weight, known.weight, atol=1e-3)
    source = timm.create_model("test_resnet", num_classes=1000).state_dict()
    torch.save(source, tmp_path / "w.pth")
    given = ["head_start=pretrained", f"model.weights={tmp_path}/w.pth", "weight_decay=1e4", "tta=true"]
    head = weights(run(tmp_path, monkeypatch, *given))["net.fc.weight"]
    assert torch.cdist(head, source["fc.weight"]).min(dim=1).values.max() < 1e-3
    best = run(tmp_path, monkeypatch, "experiment=best", given[1], base=TINY)
    assert list(best["epochs"]) == [0] and math.isfinite(best["epochs"][0]["val/loss"])


def test_probe_of_a_nonlinear_head_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr("dogbreed.features.cache.has_linear_head", lambda *_: False)
    with pytest.raises(
        UserError, match=r"finetune=linear_probe is not available: the head .* more than one linear layer"
    ):
        run(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["features=off"], "finetune=linear_probe needs cached features: omit features=off"),
        (["data.augment=true"], "finetune=linear_probe is not available: data.augment=true"),
        (["weight_decay=0"], "needs a weight_decay above 0"),
        (["optimizer=lbfgs", "finetune=full"], "optimizer=lbfgs"),
        (["head_start=pretrained"], "model.weights=random contain no linear classifier"),
        (["+trainer.fast_dev_run=true"], "single batch"),
    ],
)
def test_impossible_probe_is_a_user_error(tmp_path, monkeypatch, overrides, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, monkeypatch, *overrides)


@pytest.mark.parametrize("known", [True, False])
def test_pretrained_start_of_unknown_classes_is_a_warning(caplog, known):
    labels = np.arange(90) % 3
    features = np.eye(3, dtype=np.float32)[labels]
    model = ImageClassifier("test_resnet", ["a", "b", "c"], weights="random")
    model.net.fc = nn.Linear(3, 3)
    rows = torch.eye(3) if known else torch.ones(3, 3)
    model.pretrained_head = (rows, torch.zeros(3))
    fit_linear_probe(model, [features], [labels])
    assert ("recognises only 33 % of the training images: head_start=solved" in caplog.text) is not known
