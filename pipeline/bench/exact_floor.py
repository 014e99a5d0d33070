"""`svp bench superpixels --profile`: the time of exact precompute by operator, and its floor.

One worker's job on generated scenes with the tiny models, done twice after a warm-up: as it is, for the
CPU seconds of the whole process, and with every ATen operator of the models' thread timed in CPU seconds
of that thread. A shard's bytes depend on the last bits of the operators that compute in floating point,
and these bits on which operator computes what from what; so these must stay as they are. All else could
at best cost nothing, which bounds the gain (Amdahl's law). PyTorch's own kernels are taken as given.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..cache.create import create_cache
from ..datasets import open_dataset
from ..datasets.scenes import write_scenes
from ..display import Report, counted
from ..executors.base import Job, Work
from ..precompute.options import Flags, resolve
from ..precompute.planner import Content, build_plan
from ..precompute.purpose import stores
from ..precompute.shard_task import ShardTask
from ..process import one_thread
from ..store import open_store
from .operators import launches

PRODUCTS, SOFTMAX, ARITHMETIC = "products and convolutions", "softmax", "other arithmetic"
MOVES, INTEGERS = "copies and moves", "integers and comparisons"
FIXED = (PRODUCTS, SOFTMAX, ARITHMETIC)
# Numbers come out as they went in; so they do from what launches nothing.
_MOVES = frozenset(
    ("_to_copy", "cat", "clone", "constant_pad_nd", "copy_", "fill_", "gather", "index", "index_put_")
    + ("index_select", "masked_fill", "masked_fill_", "masked_select", "repeat", "stack", "zero_")
    + ("full", "ones", "zeros", "zeros_like")
)  # fmt: skip


def kind_of(operator: Any, out: Any) -> str:
    """The group of an ATen operator by its name and the numbers that come out."""
    name = operator._opname
    if name in _MOVES or not launches(operator):
        return MOVES
    if not any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in tree_leaves(out)):
        return INTEGERS
    product = name == "matmul" or "scaled_dot_product" in name
    if product or operator._overloadpacket in flop_registry:
        return PRODUCTS
    return SOFTMAX if "softmax" in name else ARITHMETIC


class OperatorSeconds(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, adds up the CPU seconds of this thread in each operator, by group and name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # linear and its like are made of others, which are counted; not by the decompositions in Python,
        # which compute otherwise than PyTorch does without this mode.
        if torch._C.DispatchKey.CompositeImplicitAutograd not in func.py_kernels:
            with self:
                if (out := func.decompose(*args, **(kwargs or {}))) is not NotImplemented:
                    return out
        start = time.thread_time()
        out = func(*args, **(kwargs or {}))
        spent = time.thread_time() - start
        self.seconds[kind_of(func, out), func._opname] += spent  # type: ignore[assignment]
        return out


@dataclass(frozen=True, slots=True)
class FloorReport(Report):
    """CPU seconds of `scenes` scenes, `total`, and of their operators by group and by name."""

    scenes: int
    total: float
    groups: dict[str, float]
    operators: dict[str, float]

    @property
    def fixed(self) -> float:
        """Seconds of operators whose bits a shard depends on."""
        return sum(self.groups.get(name, 0.0) for name in FIXED)

    @property
    def limit(self) -> float:
        """Largest speed-up of exact precompute with these operators."""
        return self.total / self.fixed

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"fixed": self.fixed, "limit": self.limit}

    def lines(self) -> list[str]:
        """Shares of the whole; the five operators that take most."""
        each = f"{self.total / self.scenes:.3f} CPU s per scene"
        rest = self.total - sum(self.groups.values())
        rows = [*self.groups.items(), ("all else: reading, selection on runs, writing", rest)]
        told = [f"exact precompute of {counted(self.scenes, 'scene')}, one thread: {each}"]
        told += [
            f"  {name:46} {seconds / self.total:6.1%}{'   bits' * (name in FIXED)}"
            for name, seconds in rows
        ]
        most = sorted(self.operators.items(), key=lambda one: -one[1])[:5]
        named = ", ".join(f"{name} {seconds / self.total:.0%}" for name, seconds in most)
        return [
            *told,
            f"operators that take most: {named}",
            (
                f"{self.fixed / self.total:.0%} are operators whose bits the shards depend on (bits): "
                f"at most {self.limit:.2f} times as fast as now with them"
            ),
        ]


def profile(scenes: int) -> FloorReport:
    """Measure `scenes` generated scenes; half a minute of CPU for 20; at least one."""
    with tempfile.TemporaryDirectory(prefix="svp-profile-") as name, one_thread():
        folder = Path(name)
        source = open_dataset(write_scenes(folder / "scenes", images=scenes, seed=2))
        flags, kept = Flags(mode="exact"), stores("train", "svp")
        recipe, where = resolve("tiny", None, flags, (), source.image_root, kept)
        plan = build_plan(Content(source.images), recipe, where.images)
        task = ShardTask(open_store(folder / "cache"), where)
        create_cache(folder / "cache", plan)
        do, shards = task.open(), range(plan.num_shards)
        _run(do, Job(0, rows=(0, min(scenes, plan.recipe.batch))))
        # As probes of all rows: nothing is kept, so the second time does what the first one did.
        jobs = [Job(shard, rows=(0, len(plan.shard(shard)))) for shard in shards]
        start = time.process_time()
        for job in jobs:
            _run(do, job)
        total = time.process_time() - start
        with (timed := OperatorSeconds()):
            for job in jobs:
                _run(do, job)
    groups: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for (group, operator), seconds in timed.seconds.items():
        groups[group] += seconds
        names[operator] += seconds
    return FloorReport(
        scenes, total, {n: groups[n] for n in (*FIXED, MOVES, INTEGERS)}, dict(names)
    )


def _run(do: Work, job: Job) -> None:
    for _ in do(job):
        pass
