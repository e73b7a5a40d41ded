import torch

from dogbreed.data.buffers import Buffers


def test_memory_is_used_again_once_the_tensor_is_gone() -> None:
    buffers = Buffers()
    tensor = buffers.empty((4, 3, 8, 8))
    place = tensor.data_ptr()
    del tensor
    again = buffers.empty((3, 3, 8, 8))
    assert again.data_ptr() == place
    assert again.shape == (3, 3, 8, 8)
    assert again.dtype == torch.float32


def test_memory_that_anybody_still_looks_at_is_left_alone() -> None:
    buffers = Buffers()
    tensor = buffers.empty((2, 4)).fill_(1)
    view, weight = tensor.flatten()[3:], torch.ones(4, requires_grad=True)
    loss = (tensor * weight).sum()
    del tensor
    buffers.empty((2, 4)).fill_(7)
    assert view.tolist() == [1.0] * 5
    del view
    buffers.empty((2, 4)).fill_(7)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0] * 4


def test_few_buffers_are_kept() -> None:
    buffers = Buffers()
    tensors = [buffers.empty((100,)) for _ in range(9)]
    del tensors
    assert len(buffers._free) == 2
