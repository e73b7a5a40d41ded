from __future__ import annotations

import warnings

import pytest


@pytest.fixture(autouse=True)
def _one_quiet_thread():
    """Tiny networks are faster on one thread, and Lightning's hints are not about them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)
