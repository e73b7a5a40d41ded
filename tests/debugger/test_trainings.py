"""Small real trainings have exactly the expected findings."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
from torch import nn

from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.rules.evaluate import evaluate
from tests.debugger.tiny import TinyData, TinyModel, network, train


def healthy():
    return TinyModel(), TinyData(), {"epochs": 4}


def overfitting():
    """32 images with random labels, which can only be memorised."""
    data = TinyData((8, 8, 8, 8), batch_size=16, shuffled=True)
    return TinyModel(network(width=32), lr=1e-2, weight_decay=0.0), data, {"epochs": 25}


def too_high():
    return TinyModel(lr=1e6, optimizer="SGD"), TinyData(), {"epochs": 2}


def too_low():
    return TinyModel(lr=0.0), TinyData(), {"epochs": 3}


def zero_init():
    net = network()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return TinyModel(net), TinyData(), {"epochs": 3}


def wrong_normalisation():
    return TinyModel(), TinyData(normalise=False), {"epochs": 4}


def dead_relu():
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip
    nn.init.constant_(net[2].bias, -1e3)
    return TinyModel(net, optimizer="SGD", lr=0.01), TinyData(), {"epochs": 3}


def imbalance():
    return TinyModel(), TinyData((500, 500, 10), val=(100, 100, 2)), {"epochs": 4}


def frozen_resnet():
    """A ResNet with a frozen backbone, which must not be reported as unchanged, dead or without gradient."""
    import timm

    pl.seed_everything(3, verbose=False)
    net = timm.create_model("resnet18", num_classes=4)
    for name, parameter in net.named_parameters():
        parameter.requires_grad = name.startswith("fc.")
    return (
        TinyModel(net.eval(), lr=2e-3, weights="resnet18.safetensors"),
        TinyData((80, 80, 80, 80), val=40),
        {"epochs": 6},
    )


def bias_before_norm():
    """Each convolution's bias has a gradient of zero in theory and of 1e-9 in practice."""
    return TinyModel(optimizer="SGD", lr=0.05), TinyData(), {"epochs": 4}


CASES = {
    "healthy": (healthy, ""),
    "overfitting": (overfitting, "Overfit Overtraining"),
    "lr 1e6": (
        too_high,
        "LearningRateTooHigh DeadRelu WeightUpdateRatio LossNotDecreasing VanishingGradient TensorVariance",
    ),
    "lr 0": (too_low, "LearningRateTooLow WeightUpdateRatio LossNotDecreasing UnchangedTensor"),
    "zero init": (
        zero_init,
        "PoorWeightInitialization DeadRelu LossNotDecreasing VanishingGradient AllZero UnchangedTensor",
    ),
    "wrong normalisation": (wrong_normalisation, "CheckInputImages"),
    "dead relu": (dead_relu, "DeadRelu LossNotDecreasing VanishingGradient UnchangedTensor"),
    "imbalance": (imbalance, "ClassImbalance"),
    "frozen resnet": (frozen_resnet, ""),
    "bias before norm": (bias_before_norm, ""),
}
"""Name to the function that creates model, data and settings, and the findings, root cause first."""


@pytest.mark.parametrize("name", CASES)
def test_training_has_exactly_its_findings(name: str, tmp_path: Path):
    make, listed = CASES[name]
    expected = listed.split()
    pl.seed_everything(0, verbose=False)
    model, data, settings = make()
    train(tmp_path, model, data, **settings)
    recording = read_run(tmp_path)
    findings = evaluate(recording)
    issues = sorted((f for f in findings if f.status is Status.ISSUE), key=lambda f: (len(f.causes) > 0, f.priority))
    assert [finding.rule for finding in issues] == expected
    assert not [finding for finding in findings if finding.status is Status.ERROR]
    assert not recording.problems
    # All other findings are reported as consequences of the root cause.
    assert [finding.rule for finding in issues if not finding.causes] == expected[:1]
    for finding in issues:
        assert finding.outcome.evidence and finding.outcome.suggestion


@pytest.mark.slow
def test_frozen_pretrained_network_on_real_images_has_no_finding(shared: Path, tmp_path: Path):
    """MobileNetV2 with real weights, three epochs on five breeds, configured as in `python -m dogbreed.train`."""
    from dogbreed.cli.config import compose, resolve_defaults
    from dogbreed.run.train import train as train_config

    breeds = sorted(path.name for path in (shared / "data" / "train").iterdir() if path.is_dir())[::20]
    for split in ("train", "val", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for breed in breeds:
            (tmp_path / "data" / split / breed).symlink_to(shared / "data" / split / breed)
    overlay = "{mean:[0.5,0.5,0.5],std:[0.5,0.5,0.5],crop_pct:1.0}"
    overrides = [
        *("model=mobilenetv2", f"model.weights={shared}/weights/mobilenetv2_100.safetensors"),
        *("+model.kwargs.pad_type=same", f"+model.kwargs.pretrained_cfg_overlay={overlay}"),
        *("data=folder", f"data.url={tmp_path}/data", "data.image_size=128", "data.augment=false"),
        *("batch_size=16", "lr=0.003", "epochs=3", "trainer=cpu", f"output_dir={tmp_path}/run", "name=five"),
    ]
    results = train_config(resolve_defaults(compose("train", overrides)))
    assert results["issues"] == {}
    assert results["test"]["test/accuracy"] > 0.8
    assert "This training did not finish" not in (tmp_path / "run" / "report.html").read_text()
