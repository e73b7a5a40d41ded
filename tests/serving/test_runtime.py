"""Choice of the runtime: ONNX Runtime if it is installed and agrees, otherwise PyTorch."""

import sys

import pytest
import timm
import torch

from dogbreed.serving import runtime
from dogbreed.serving.runtime import Runtime, choose_runtime, onnx_runtime


@pytest.fixture
def net():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).eval()


@pytest.mark.parametrize(
    ("name", "kwargs"), [("test_resnet", {}), ("mobilenetv2_050", {"pad_type": "same"}), ("test_vit", {})]
)
def test_onnx_runtime_matches_network_for_any_batch_size(name, kwargs):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e .[serve]")
    net = timm.create_model(name, num_classes=5, **kwargs).eval()
    size = net.pretrained_cfg["input_size"][-1]
    with torch.inference_mode():
        onnx = onnx_runtime(net, torch.randn(2, 3, size, size))
        for count in (1, 3):
            images = torch.randn(count, 3, size, size)
            torch.testing.assert_close(onnx.forward(images), net(images), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(("error", "expected"), [(0.0, "onnx"), (0.1, "pytorch")])
def test_choose_runtime_takes_onnx_only_if_logits_agree(net, monkeypatch, error, expected):
    fake = Runtime("onnx", lambda images: net(images) + error, torch.contiguous_format)
    monkeypatch.setattr(runtime, "onnx_runtime", lambda net, example: fake)
    assert choose_runtime(net, 64, 64).name == expected


@torch.inference_mode()
def test_choose_runtime_export_failure_falls_back_to_pytorch(net, monkeypatch, caplog):
    caplog.set_level("INFO")

    def fail(*_):
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setattr(runtime, "onnx_runtime", fail)
    assert choose_runtime(net, 64, 64).name == "pytorch"
    assert "the ONNX export failed (no such operator)" in caplog.text


@torch.inference_mode()
def test_choose_runtime_without_onnxruntime_is_silent(net, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # makes the import fail
    assert choose_runtime(net, 64, 64).name == "pytorch" and not caplog.text
