"""Split work over ranks without padding and gather the results.

`DistributedSampler` repeats samples so that all ranks have equally many, which moves the metrics.
Here rank r takes items r, r + world, ...; what it found travels as bytes of our own JSON.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from ..pipeline.errors import Interrupted, NonFiniteError

Item = TypeVar("Item")


@contextmanager
def process_group() -> Iterator[None]:
    """Around everything a process does as one of several: the group joined within ends with it.

    A group that is left to the interpreter's end keeps gloo's threads alive into it, and one that
    still holds a tensor then asks for the GIL in vain: the process aborts after a good run.
    After an error of this rank alone the group stays. NCCL would wait in it for the other ranks,
    which wait for this one; when this process ends, its launcher ends them too.
    """
    try:
        yield
    except (Interrupted, NonFiniteError):  # agreed on: every rank raises them at the same step
        _end_group()
        raise
    _end_group()


def _end_group() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """(0, 1) outside a distributed run."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def mine(items: Sequence[Item]) -> Sequence[Item]:
    """This rank's share; the shares of all ranks are a partition."""
    rank, world = rank_and_world()
    return items[rank::world]


def meet(device: torch.device | str = "cpu") -> None:
    """Return once every rank has come here; `device` as in `gather`.

    `dist.barrier` would use the GPU of this rank's number wherever there is any, also in a run on
    the CPU (accelerate gives it `device_ids`), and fail where there are fewer GPUs than ranks.
    """
    if rank_and_world()[1] > 1:
        seen = torch.ones(1, device=device)
        dist.all_reduce(seen)
        seen.item()


def gather(data: bytes, device: torch.device | str = "cpu") -> list[bytes]:
    """The bytes of every rank, in rank order, on every rank.

    device  where the process group's tensors live: the GPU for nccl.
    """
    _, world = rank_and_world()
    if world == 1:
        return [data]
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(data)], device=device))
    longest = max(int(size) for size in sizes)
    sent = torch.zeros(longest, dtype=torch.uint8, device=device)
    sent[: len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
    received = [torch.empty_like(sent) for _ in range(world)]
    dist.all_gather(received, sent)
    return [
        part[: int(size)].cpu().numpy().tobytes()
        for part, size in zip(received, sizes, strict=True)
    ]
