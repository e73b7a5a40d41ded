from __future__ import annotations

import pytest
import torch

from dogbreed.debugger.record.reductions import statistics
from dogbreed.debugger.series import STATISTICS, describe


def named(tensor: torch.Tensor) -> dict[str, float]:
    return dict(zip(STATISTICS, statistics([tensor])[0].tolist(), strict=True))


def test_statistics_of_small_tensors_equal_numpys():
    random = torch.Generator().manual_seed(0)
    tensors = [torch.randn(20, 30, generator=random), torch.zeros(7), torch.tensor([1.0, 0.0, -3.0])]
    for row, tensor in zip(statistics(tensors), tensors, strict=True):
        expected = describe(tensor.double().numpy().ravel())
        for name, value in zip(STATISTICS, row.tolist(), strict=True):
            tolerance = 0.4 if name in ("p5", "p95") else 1e-4  # percentiles are those of 256 elements
            assert value == pytest.approx(expected[name], abs=tolerance), name


@pytest.mark.parametrize(("mean", "std"), [(1000.0, 0.1), (300.0, 0.05), (-1e4, 1.0)])
def test_variance_far_from_zero_is_exact(mean: float, std: float):
    values = mean + std * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    assert named(values)["var"] == pytest.approx(values.double().var(unbiased=False).item(), rel=1e-3)


def test_statistics_of_large_tensors_sample_all_but_extremes():
    random = torch.Generator().manual_seed(0)
    tensor = torch.randn(512, 512, 3, 3, generator=random)
    tensor[:, :, 0, 0] = 0
    tensor[100, 100, 1, 1] = 50
    row = named(tensor)
    assert row["abs_max"] == 50
    assert row["abs_mean"] == pytest.approx(tensor.abs().mean().item(), rel=0.05)
    assert row["zero_fraction"] == pytest.approx(1 / 9, abs=0.02)


def test_zero_fraction_is_one_for_zeros_alone():
    tensor = torch.zeros(1_000_000)
    assert named(tensor)["zero_fraction"] == 1
    tensor[777] = 1e-3
    assert named(tensor)["zero_fraction"] < 1


def test_statistics_of_channels_last_read_memory_order():
    tensor = torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    in_order = statistics([tensor.permute(0, 2, 3, 1).contiguous()])[0].tolist()
    assert statistics([tensor.to(memory_format=torch.channels_last)])[0].tolist() == pytest.approx(in_order)


def test_abs_max_distinguishes_nan_from_infinity():
    largest = statistics([torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("inf")])])[:, 2]
    assert torch.isnan(largest[0]) and torch.isinf(largest[1])
