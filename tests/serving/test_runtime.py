"""The form that serves is the fastest of those that give the network's own answers."""

import sys

import pytest
import timm
import torch

from dogbreed.serving import runtime as forms


@pytest.fixture
def net():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).eval()


@pytest.mark.parametrize(
    ("name", "kwargs"), [("test_resnet", {}), ("mobilenetv2_050", {"pad_type": "same"}), ("test_vit", {})]
)
def test_onnx_gives_the_answers_of_the_network_for_any_number_of_images(name, kwargs):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e .[serve]")
    net = timm.create_model(name, num_classes=5, **kwargs).eval()
    size = net.pretrained_cfg["input_size"][-1]
    with torch.inference_mode():
        form = forms.onnx_form(net, torch.randn(2, 3, size, size))
        for count in (1, 3):
            images = torch.randn(count, 3, size, size)
            torch.testing.assert_close(form(images), net(images), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_faster_form_is_taken_and_a_slower_or_wrong_one_is_not(net, monkeypatch):
    seconds = {}
    monkeypatch.setattr(forms, "_seconds", lambda forward, example: seconds.get(forward, 1.0))
    for wrong, takes, expected in ((0.0, 0.5, "onnx"), (0.0, 2.0, "pytorch"), (0.1, 0.5, "pytorch")):
        other = lambda images, wrong=wrong: net(images) + wrong  # noqa: E731
        seconds[other] = takes
        monkeypatch.setattr(forms, "onnx_form", lambda net, example, other=other: other)
        name, forward = forms.fastest(net, 64, 64)
        assert name == expected and forward in (net, other)


@torch.inference_mode()
def test_without_the_extra_or_where_it_fails_pytorch_serves(net, monkeypatch, caplog):
    caplog.set_level("INFO")

    def fail(*_):
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setattr(forms, "onnx_form", fail)
    assert forms.fastest(net, 64, 64)[0] == "pytorch"
    assert "no ONNX form can be made (no such operator)" in caplog.text
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    caplog.clear()
    assert forms.fastest(net, 64, 64)[0] == "pytorch" and not caplog.text
