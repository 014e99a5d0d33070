"""Ranks: split work without padding, gather the results, decide and fail together.

`DistributedSampler` repeats samples so that all ranks have equally many, which moves the metrics.
Here rank r takes items r, r + world, ...; what it found travels as bytes of our own JSON.

Machines need not see the same files. What is looked for on the disk is therefore decided by the
first rank (`decided`), what each rank finds for itself is compared (`agree`), and an error of one
rank is raised on all of them (`together`): a rank that went another way would leave the others in a
collective that it never joins.
"""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from ..pipeline.display import counted, show
from ..pipeline.errors import (
    CacheError,
    ConfigError,
    DataError,
    MissingError,
    PlanMismatchError,
    SvpError,
    WeightsError,
    describe,
)

Item = TypeVar("Item")
Value = TypeVar("Value")


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
    except SvpError as error:
        if error.everywhere:
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


class LostRank(SvpError):
    """Other ranks cannot be reached: one of them ended, and its own message says why."""


@contextmanager
def together(step: str) -> Iterator[None]:
    """An error within, of any rank, is raised on all ranks once all of them are here.

    step  what is done, the same text on all ranks. No collective may be within but `decided`, `agree`
          and further steps.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is, the others must not wait
        _fail(step, error)
    _exchange(step)


def decided(step: str, find: Callable[[], str]) -> str:
    """Give all ranks what `find` returns on the first; its error is raised on all, too."""
    value = ""
    try:
        if rank_and_world()[0] == 0:
            value = find()
    except Exception as error:  # noqa: BLE001  whatever it is, the others must not wait
        _fail(step, error)
    return str(_exchange(step, value)[0]["value"])


def first_then_others(step: str, work: Callable[[], Value]) -> Value:
    """`work()` on the first rank, whose files the others then find; errors are raised on all."""
    found: list[Value] = []
    for turn in (True, False):
        with together(step):
            if (rank_and_world()[0] == 0) is turn:
                found.append(work())
    return found[0]


def agree(step: str, values: Mapping[str, str]) -> None:
    """Raise PlanMismatchError on all ranks unless all have equal values, naming what differs."""
    replies = _exchange(step, dict(values))
    first = replies[0]["value"]
    for rank, reply in enumerate(replies):
        other = reply["value"]
        if other == first:
            continue
        different = [
            f"{name}: {show(other.get(name), 100)} there, {show(first.get(name), 100)} in process 0"
            for name in sorted(first.keys() | other.keys())
            if other.get(name) != first.get(name)
        ]
        error = PlanMismatchError(
            f"{_name(rank, reply)} would run something else: {'; '.join(different[:4])}: give the "
            "same command, recipe, data and caches to all processes"
        )
        error.everywhere = True
        raise error


def flat(value: object, name: str) -> dict[str, str]:
    """The leaves of nested dicts as text, by dotted name, for `agree`.

    >>> flat({"a": {"b": 1}, "c": [2]}, "recipe")
    {'recipe.a.b': '1', 'recipe.c': '[2]'}
    """
    if not isinstance(value, Mapping):
        return {name: json.dumps(value)}
    return {k: v for key in value for k, v in flat(value[key], f"{name}.{key}").items()}


def _fail(step: str, error: Exception) -> NoReturn:
    """Raise `error` here, and on the other ranks one that names this rank."""
    if not isinstance(error, LostRank) and not getattr(error, "everywhere", False):
        _exchange(step, error=error)
    raise error


def _exchange(step: str, value: Any = "", error: Exception | None = None) -> list[dict[str, Any]]:
    """Every rank's message, on every rank; raises on all of them what one of them failed with."""
    _, world = rank_and_world()
    if world == 1:
        return [{"value": value}]
    mine: dict[str, Any] = {"step": step, "value": value, "host": platform.node(), "error": None}
    if error is not None:
        bases = (base.__name__ for base in type(error).__mro__)
        mine["error"] = [next((n for n in bases if n in _KINDS), "SvpError"), describe(error)]
    try:
        replies = [json.loads(data) for data in gather(json.dumps(mine).encode(), _device())]
    except RuntimeError as lost:
        raise LostRank(
            f"{step}: another process of this run ended or cannot be reached (its own message says "
            f"why): {describe(lost)}"
        ) from error
    if any(reply["error"] for reply in replies):
        _raise_on_all(replies, error)
    ways = {reply["step"]: _name(rank, reply) for rank, reply in enumerate(replies)}
    if len(ways) > 1:
        told = "; ".join(f"{name} is at {way}" for way, name in ways.items())
        apart = SvpError(f"the processes of this run do not see the same files: {told}")
        apart.everywhere = True
        raise apart
    return replies


_KINDS: dict[str, type[SvpError]] = {
    kind.__name__: kind
    for kind in (SvpError, DataError, WeightsError, CacheError, ConfigError, PlanMismatchError,
                 MissingError)
} | {"MissingPackageError": MissingError}  # fmt: skip


def _raise_on_all(replies: Sequence[Mapping[str, Any]], own: Exception | None) -> NoReturn:
    failed = [rank for rank, reply in enumerate(replies) if reply["error"]]
    name, text = replies[failed[0]]["error"]
    same = all(reply["error"] == [name, text] for reply in replies)
    if own is not None and not isinstance(own, SvpError):
        raise own  # a fault of the program keeps its traceback where it happened
    raised = own if own is not None and same else _KINDS[name](text)
    if not same:
        more = f" (and {counted(len(failed) - 1, 'other process', 'fail')})" if failed[1:] else ""
        raised = _KINDS[name](f"{_name(failed[0], replies[failed[0]])}: {text}{more}")
    raised.everywhere = True
    raise raised from (own if raised is not own else None)


def _name(rank: int, reply: Mapping[str, Any]) -> str:
    return f"process {rank} (on {show(reply['host'], 60)})"


def _device() -> torch.device:
    """Device of this group's tensors: NCCL has none on the CPU."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
