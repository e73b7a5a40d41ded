import torch

from dogbreed.data.shared_memory import SharedMemoryPool, TensorPool, attach


def test_memory_is_reused_after_the_tensor_is_freed() -> None:
    buffers = TensorPool()
    tensor = buffers.empty((4, 3, 8, 8))
    place = tensor.data_ptr()
    del tensor
    again = buffers.empty((3, 3, 8, 8))
    assert again.data_ptr() == place
    assert again.shape == (3, 3, 8, 8)
    assert again.dtype == torch.float32


def test_memory_with_a_view_is_not_reused() -> None:
    buffers = TensorPool()
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
    buffers = TensorPool()
    tensors = [buffers.empty((100,)) for _ in range(9)]
    del tensors
    assert len(buffers._free) == 2


def test_shared_memory_is_reused_after_the_receiver_frees_it() -> None:
    pool = SharedMemoryPool()
    sent = pool.empty((2, 3)).fill_(1)
    place = sent.data_ptr()
    held = attach(sent)
    view = held[1]
    del held
    assert pool.empty((2, 3)).fill_(7).data_ptr() != place
    assert view.tolist() == [1, 1, 1]
    del view
    assert pool.empty((1, 2)).data_ptr() == place


def test_undelivered_memory_is_reclaimed_and_held_is_not() -> None:
    pool = SharedMemoryPool()
    lost, sent = pool.empty((4,)), pool.empty((4,))
    place, held = lost.data_ptr(), attach(sent[:0])
    pool.reclaim()
    assert [pool.empty((4,)).data_ptr() == place for _ in range(2)] == [True, False]
    assert held.shape == (0,)


def test_few_shared_buffers_are_kept() -> None:
    pool = SharedMemoryPool()
    assert len({pool.empty((9,)).data_ptr() for _ in range(9)}) > 6
    assert len(pool._buffers) == 6


def test_tensor_of_this_process_is_not_shared() -> None:
    tensor = torch.zeros(3)
    assert attach(tensor) is tensor
