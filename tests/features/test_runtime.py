"""The runtimes of a backbone: their features are those of the plain network."""

import contextlib

import pytest
import timm
import torch

from dogbreed.features import runtime
from dogbreed.models.heads import has_linear_head, head_logits


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv2_050", "test_convnext", "test_vit"])
def test_folded_features_and_head_equal_the_network(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2), torch.nn.init.normal_(module.bias)
    size = net.pretrained_cfg["input_size"][-1]
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        features = runtime.feature_network(net)(images)
        assert torch.allclose(head_logits(net, features), net(images), rtol=1e-5, atol=1e-6)
        folded = runtime.fold_batch_norms(runtime.feature_network(net))
        assert torch.allclose(folded(images), features, rtol=1e-4, atol=1e-4)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert has_linear_head(net, size, size)


def test_runtime_agrees_with_the_plain_network_and_is_logged(caplog):
    caplog.set_level("INFO")
    plain = runtime.feature_network(timm.create_model("test_resnet", num_classes=5))
    images = torch.randn(20, 3, 64, 64)
    before = torch.get_num_threads()
    with runtime.thread_per_core() as threads:
        features = runtime.create_runtime(plain, images, contextlib.nullcontext, threads)(images)
        autocast = runtime.create_runtime(plain, images, lambda: torch.autocast("cpu", torch.bfloat16), threads)
        half = autocast(images)
    assert torch.get_num_threads() == before
    with torch.inference_mode():
        expected = plain(images)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.06 * expected.abs().max()
    assert "the backbone runs in float32" in caplog.text and "in bfloat16" in caplog.text


def test_runtime_with_other_features_is_rejected(monkeypatch):
    plain = runtime.feature_network(timm.create_model("test_resnet", num_classes=5))
    noisy = lambda net: torch.nn.Sequential(net, torch.nn.Dropout(0.5).train())  # noqa: E731
    monkeypatch.setattr(runtime, "fold_batch_norms", noisy)
    with runtime.thread_per_core() as threads:
        chosen = runtime.create_runtime(plain, torch.randn(8, 3, 32, 32), contextlib.nullcontext, threads)
    assert chosen.name == "channels_last"
