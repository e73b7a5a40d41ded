"""The forms in which a network can be run, and which of them is the fastest on this machine.

ONNX Runtime needs half of eager PyTorch's time on CPUs (benchmarks/serving.py measures it). It is an extra,
`pip install 'dogbreed[serve]'`; where it is not installed, or does not give the same answers, PyTorch serves.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]
"""Normalised images float32 (B, 3, H, W) to logits (B, num_classes)."""

_TOLERANCE = 1e-3
"""Of logits, absolute and relative: rounding in another order gives about 1e-5."""


def fastest(net: nn.Module, height: int, width: int) -> tuple[str, Forward]:
    """Returns the name and the function of the fastest form that gives the answers of `net`.

    Args:
        net: In eval mode, on the CPU.
        height: Of the images, px.
        width: Of the images, px.
    """
    net = net.to(memory_format=torch.channels_last)
    example = torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(0))
    expected = net(example)
    try:
        other = onnx_form(net, example[:2])
        found = other(example)
    except ImportError:
        return "pytorch", net
    except Exception as error:  # noqa: BLE001 - whatever the exporter cannot do, PyTorch can
        log.info("served by PyTorch: no ONNX form can be made (%s)", str(error).partition("\n")[0][:200])
        return "pytorch", net
    if not torch.allclose(found, expected, _TOLERANCE, _TOLERANCE):
        log.info("served by PyTorch: the ONNX form answers differently, by up to %g", (found - expected).abs().max())
        return "pytorch", net
    return ("onnx", other) if _seconds(other, example) < _seconds(net, example) else ("pytorch", net)


def onnx_form(net: nn.Module, example: Tensor) -> Forward:
    """Returns `net` run by ONNX Runtime, for any number of images of the example's size.

    Raises:
        ImportError: `onnx` or `onnxruntime` is not installed.
    """
    import onnx  # noqa: F401 - the exporter needs it
    import onnxruntime

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "net.onnx"
        warnings.simplefilter("ignore")  # that a newer exporter is to come, and what each operator is made of
        torch.onnx.export(
            net, (example.contiguous(),), str(place), input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}}, dynamo=False,
        )  # fmt: skip
        exported = place.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoders need the cores too
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])


def _seconds(forward: Forward, example: Tensor) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        forward(example)
        times.append(time.perf_counter() - start)
    return min(times)
