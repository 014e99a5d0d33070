"""Memory of batches: used again when nobody holds it, never before."""

import gc
import random
import threading

import torch

from svp.train.data.collate import LEAST, Memory

SHAPE = (4, 64, 256)  # float16: 128 kB


def test_a_block_is_used_again_only_when_its_last_tensor_is_gone() -> None:
    memory = Memory()
    first = memory.take(SHAPE, torch.float16)
    place, view = first.data_ptr(), first[2].transpose(0, 1)
    del first
    gc.collect()
    second = memory.take(SHAPE, torch.float16)
    assert second.data_ptr() != place  # a view still holds the block
    del view
    gc.collect()
    assert memory.take(SHAPE, torch.float16).data_ptr() == place


def test_a_tensor_saved_for_backward_holds_its_block() -> None:
    memory = Memory()
    x = memory.take(SHAPE, torch.float32)
    x.fill_(2.0)
    weight = torch.ones(256, requires_grad=True)
    loss = (x * weight).sum()
    del x
    for _ in range(3):
        memory.take(SHAPE, torch.float32).fill_(-1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and weight.grad.eq(2.0 * 4 * 64).all()


def test_blocks_serve_other_shapes_and_types_of_their_size() -> None:
    memory = Memory()
    place = memory.take(SHAPE, torch.float16).data_ptr()
    other = memory.take((3, 40_000), torch.uint8)
    assert other.data_ptr() == place and other.is_contiguous() and other.dtype == torch.uint8


def test_small_tensors_have_memory_of_their_own() -> None:
    made = Memory().take((3, 5), torch.float16)
    assert made.shape == (3, 5) and made.numel() * 2 < LEAST


def test_threads_never_share_a_block() -> None:
    memory, wrong = Memory(), []

    def work(seed: int) -> None:
        rng, held = random.Random(seed), []
        for _ in range(300):
            tensor = memory.take((rng.randint(40_000, 130_000),), torch.uint8)
            value = rng.randint(0, 255)
            tensor.fill_(value)
            held.append((tensor, value))
            if len(held) > 5:
                found, want = held.pop(rng.randrange(len(held)))
                if not found.eq(want).all():
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
