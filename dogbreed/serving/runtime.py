"""What runs the network: ONNX Runtime on CPUs if it is installed, otherwise PyTorch.

ONNX Runtime is an extra, `pip install 'dogbreed[serve]'`, and typically halves the latency on CPUs
(benchmarks/serving.py). PyTorch serves networks that cannot be exported or whose exported form gives other answers.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

_TOLERANCE = 1e-3
"""Allowed absolute and relative difference of logits; reordered float32 sums differ by about 1e-5."""


class Runtime(NamedTuple):
    """A way to run one network."""

    name: str
    """`pytorch` or `onnx`."""
    forward: Callable[[Tensor], Tensor]
    """Normalised images float32 (B, 3, H, W) to logits (B, num_classes)."""
    memory_format: torch.memory_format
    """Layout in which `forward` expects the images."""


def choose_runtime(net: nn.Module, height: int, width: int) -> Runtime:
    """Returns ONNX Runtime if it is installed, `net` is on the CPU and the logits agree; otherwise PyTorch.

    `net` is in eval mode and channels_last layout; images have `height` x `width` px.
    """
    pytorch = Runtime("pytorch", net, torch.channels_last)
    if next(net.parameters()).device.type != "cpu":
        return pytorch
    example = torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(0))
    expected = net(example)
    try:
        onnx = onnx_runtime(net, example[:2])
        logits = onnx.forward(example)
    except ImportError:
        return pytorch
    except Exception as error:  # noqa: BLE001 - an exporter that fails in any way must not keep PyTorch from serving
        log.info("serving with PyTorch: the ONNX export failed (%s)", str(error).partition("\n")[0][:200])
        return pytorch
    if not torch.allclose(logits, expected, _TOLERANCE, _TOLERANCE):
        log.info("serving with PyTorch: ONNX logits differ by up to %g", (logits - expected).abs().max())
        return pytorch
    return onnx


def onnx_runtime(net: nn.Module, example: Tensor) -> Runtime:
    """Returns ONNX Runtime for `net`, for any batch size and images of the example's size.

    Raises:
        ImportError: `onnx` or `onnxruntime` is not installed.
    """
    import onnx  # noqa: F401 - used by the exporter
    import onnxruntime

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        warnings.simplefilter("ignore")  # deprecation of this exporter, and constant-folding notes
        torch.onnx.export(
            net, (example.contiguous(),), str(path), input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}}, dynamo=False,
        )  # fmt: skip
        exported = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoding threads need the cores too
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])

    def forward(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])

    return Runtime("onnx", forward, torch.contiguous_format)
