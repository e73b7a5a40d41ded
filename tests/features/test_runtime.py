"""The forms in which a backbone runs: what they give is what the plain network gives."""

import contextlib
import shutil

import pytest
import timm
import torch

from dogbreed.features import runtime as speed
from dogbreed.models import backbones as backbone


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv2_050", "test_convnext", "test_vit"])
def test_trunk_and_head_make_the_network_and_folding_changes_rounding_alone(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2), torch.nn.init.normal_(module.bias)
    size = net.pretrained_cfg["input_size"][-1]
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        features = speed.trunk(net)(images)
        expected = net(images)
        (head,) = backbone.head_names(net)
        assert torch.allclose(net.get_submodule(head)(features), expected, rtol=1e-5, atol=1e-6)
        folded = speed.fold(speed.trunk(net))
        assert speed._agrees(folded(images), features)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert backbone.has_linear_head(net, size, size)
    backbone.accept_features(net)
    with torch.inference_mode():
        assert torch.allclose(net(features), net(images), rtol=1e-5, atol=1e-6)


def test_the_fastest_form_agrees_and_is_said(caplog):
    caplog.set_level("INFO")
    plain = speed.trunk(timm.create_model("test_resnet", num_classes=5))
    images = torch.randn(20, 3, 64, 64)
    with speed.all_processors() as threads:
        form = speed.fastest(plain, images, contextlib.nullcontext, 1000, threads)
        found = form(images)
        bf16 = speed.fastest(plain, images, lambda: torch.autocast("cpu", torch.bfloat16), 1000, threads)(images)
        assert speed.fastest(plain, images, contextlib.nullcontext, 10, threads).name == "plain"
    with torch.inference_mode():
        expected = plain(images)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert bf16.dtype == torch.bfloat16 and speed._agrees(bf16, expected.bfloat16())
    assert "the backbone runs in float32" in caplog.text and "in bfloat16" in caplog.text


def test_a_form_that_gives_something_else_is_not_taken(monkeypatch):
    plain = speed.trunk(timm.create_model("test_resnet", num_classes=5))
    monkeypatch.setattr(speed, "fold", lambda net: torch.nn.Sequential(net, torch.nn.Dropout(0.5).train()))
    with speed.all_processors() as threads:
        form = speed.fastest(plain, torch.randn(8, 3, 32, 32), contextlib.nullcontext, 1000, threads)
    assert not form.name.startswith("folded")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_pass_that_is_long_enough_is_compiled(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(speed, "_COMPILE_S", 0.0)
    plain = speed.trunk(timm.create_model("test_resnet", num_classes=5))
    images = torch.randn(32, 3, 64, 64)
    tried = []
    whole = speed._speeds
    monkeypatch.setattr(
        speed, "_speeds", lambda forms, images: (tried.extend(f.name for f in forms), whole(forms, images))[1]
    )
    with speed.all_processors() as threads:
        found = speed.fastest(plain, images, contextlib.nullcontext, 1000, threads)(images)
    assert any(name.startswith("torch.compile") for name in tried)
    with torch.inference_mode():
        assert torch.allclose(found, plain(images), rtol=1e-4, atol=1e-5)
