"""Cases of the specification with a real network, optimizer or run, recorded instead of synthetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from dogbreed.debugger.findings import Status
from dogbreed.debugger.read.reader import read_run
from dogbreed.debugger.read.sources import add_other_runs
from dogbreed.debugger.recording import Recording
from dogbreed.debugger.rules.evaluate import evaluate
from dogbreed.debugger.series import PARTS, StepTimes, SystemSeries
from tests.debugger.tiny import TinyData, TinyModel, network, train

TENSORS = {"tensors": {"enabled": True}}
DATA = TinyData((64, 64), batch_size=16, val=120)


def recorded(folder: Path, net: nn.Module, *, steps: int = 5, lr: float = 0.01, seed: int = 0, momentum: float = 0.9):
    """Returns the recording of a few steps of SGD on a network, and of a validation of 240 images."""

    class Model(TinyModel):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=lr, momentum=momentum)

    pl.seed_everything(seed, verbose=False)
    train(folder, Model(net), DATA, 1, TENSORS, test=False, limit_train_batches=steps)
    return read_run(folder)


def status(recording: Recording, rule: str, **settings) -> Status:
    [finding] = evaluate(recording, {rule: settings} if settings else None, only=[rule])
    return finding.status


def seeded(make) -> nn.Module:
    pl.seed_everything(0, verbose=False)
    return make()


def perceptron(width: int = 32) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, width), nn.ReLU(), nn.Linear(width, 2))


def resnet() -> nn.Module:
    import timm

    return timm.create_model("resnet18", num_classes=2)


def sigmoids() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(768, 16)]
    for _ in range(30):
        layers += [nn.Sigmoid(), nn.Linear(16, 16)]
    net = nn.Sequential(*layers, nn.Linear(16, 2))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
    return net


def scaled(factor: float):
    """A network of four layers without norms whose weights are all multiplied."""

    def make() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(768, 64)]
        for _ in range(3):
            layers += [nn.ReLU(), nn.Linear(64, 64)]
        net = nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, 2))
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                layer.weight.data.mul_(factor)
        return net

    return make


def dead(bias: float):
    def make() -> nn.Module:
        net = perceptron()
        nn.init.constant_(net[1].bias, bias)
        return net

    return make


def tanh(factor: float):
    def make() -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.Tanh(), nn.Linear(32, 2))
        net[1].weight.data.mul_(factor)
        return net

    return make


@pytest.mark.parametrize(
    ("rule", "make", "settings", "expected"),
    [
        ("VanishingGradient", sigmoids, {}, Status.ISSUE),
        ("VanishingGradient", resnet, {"lr": 1e-4, "steps": 4}, Status.OK),
        ("ExplodingTensor", scaled(1.0), {"lr": 1e6, "steps": 8}, Status.ISSUE),
        ("ExplodingTensor", scaled(1.0), {"lr": 0.01, "steps": 8}, Status.OK),
        ("PoorWeightInitialization", scaled(100.0), {"lr": 1e-30}, Status.ISSUE),
        ("PoorWeightInitialization", scaled(0.0), {}, Status.ISSUE),
        ("PoorWeightInitialization", resnet, {"steps": 3}, Status.OK),
        ("SaturatedActivation", tanh(1e4), {}, Status.ISSUE),
        ("SaturatedActivation", tanh(1.0), {}, Status.OK),
        ("DeadRelu", dead(-1e3), {}, Status.ISSUE),
        ("DeadRelu", scaled(0.0), {}, Status.ISSUE),
        ("DeadRelu", scaled(1.0), {}, Status.OK),
        ("WeightUpdateRatio", perceptron, {"lr": 1e-13, "momentum": 0.0}, Status.ISSUE),
        ("WeightUpdateRatio", perceptron, {"lr": 1e4}, Status.ISSUE),
        ("WeightUpdateRatio", perceptron, {"lr": 1e-4, "momentum": 0.08}, Status.OK),
    ],
)
def test_network_triggers_exactly_the_expected_rules(tmp_path: Path, rule: str, make, settings: dict, expected: Status):
    assert status(recorded(tmp_path, seeded(make), **settings), rule) is expected


def test_runs_differ_only_with_different_seeds(tmp_path: Path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        pl.seed_everything(seed, verbose=False)
        recorded(tmp_path / name, network(2), seed=seed, steps=3)
    for other, expected in (("again", Status.OK), ("other", Status.ISSUE)):
        recording = read_run(tmp_path / "first")
        add_other_runs(recording, [str(tmp_path / other)])
        assert status(recording, "SimilarAcrossRuns") is expected


def test_every_rule_of_the_profiler_report_can_fire():
    """AWS's own all-trigger set: thresholds of 0 or 100 on an ordinary profile make every section appear."""
    random = np.random.default_rng(0)
    points, two = 1200, (1200, 2)
    memory = np.column_stack([np.linspace(20, 60, points)] * 2)
    machine = SystemSeries(
        np.arange(points) / 2, random.uniform(5, 60, two), random.uniform(1, 9, two), None,
        random.uniform(20, 60, two), memory,
    )  # fmt: skip
    parts = {name: random.uniform(0.01, 0.02, 300) for name in PARTS}
    steps = np.arange(300)
    times = StepTimes(steps, parts, steps // 100, np.cumsum(sum(parts.values())), {"train": 30.0})
    settings = {"initialization_s": 1.0, "num_workers": 0, "cores": 8, "batch_size": 8}
    inputs = {"system": machine, "gpus": machine, "step_times": times, "settings": settings}
    triggers = {
        "BatchSize": {"cpu_threshold_p95": 100, "gpu_threshold_p95": 100, "gpu_memory_threshold_p95": 100},
        "CPUBottleneck": {"threshold": 0, "gpu_threshold": 100, "cpu_threshold": 0},
        "IOBottleneck": {"threshold": 0, "gpu_threshold": 100, "io_threshold": 0},
        "GPUMemoryIncrease": {"increase": 0},
        "LoadBalancing": {"threshold": 0},
        "LowGPUUtilization": {"threshold_p95": 100, "threshold_p5": 100},
        "MaxInitializationTime": {"threshold": 0},
        "StepOutlier": {"stddev": 0, "n_outliers": 0, "min_ratio": 0, "min_extra_ms": 0},
        "Dataloader": {"min_threshold": 100, "min_wait_share": 0, "min_wait_ms": 0},
    }
    findings = evaluate(Recording(inputs=inputs), triggers, only=triggers)
    assert {finding.rule: finding.status for finding in findings} == dict.fromkeys(triggers, Status.ISSUE)
