"""Operators that launch a kernel, counted by part: what a GPU is told to do, without a GPU.

Views, empty allocations and aliases launch nothing. Bytes are those of all inputs and outputs of an
operator; of a table from which rows are taken, of those rows only.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Without a kernel of their own although their schema names no alias.
_SILENT = frozenset(
    ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
    + ("_unsafe_view", "lift_fresh")
)
_ROWS = frozenset({"embedding", "gather", "index", "index_select"})
CASTS = frozenset({"_to_copy", "_foreach_copy_"})


class Kernel(NamedTuple):
    """One launch: name of the ATen operator, floating-point operations, bytes read and written."""

    name: str
    flops: int
    bytes: int


class Kernels(Counter[Kernel]):
    """Number of launches of each kernel."""

    @property
    def operators(self) -> int:
        """Launches."""
        return sum(self.values())

    @property
    def casts(self) -> int:
        """Launches that only change a dtype or copy to a device."""
        return sum(n for kernel, n in self.items() if kernel.name in CASTS)

    @property
    def bytes(self) -> int:
        """Bytes read and written by all launches."""
        return sum(n * kernel.bytes for kernel, n in self.items())

    @property
    def flops(self) -> int:
        """Floating-point operations of all launches, of matrix products and attention."""
        return sum(n * kernel.flops for kernel, n in self.items())


class KernelCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, counts the operators of this thread; `lap` gives them to a part.

    parts  by name, in the order of their first lap; "a/b" counts as "a"
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parts: dict[str, Kernels] = {}
        self._open = Kernels()

    def lap(self, part: str) -> None:
        """All launches since the last call belong to `part`."""
        self.parts.setdefault(part.partition("/")[0], Kernels()).update(self._open)
        self._open = Kernels()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = self.call(func, args, kwargs or {})
        if launches(func):
            self._open[_kernel(func, args, kwargs or {}, out)] += 1
        return out

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operator."""
        return func(*args, **kwargs)


def launches(func: Any) -> bool:
    """Whether an ATen operator starts a kernel."""
    if func.namespace != "aten" or func._opname in _SILENT:
        return False
    returns = func._schema.returns
    if not any("Tensor" in str(result.type) for result in returns):
        # Dtypes, sizes and values read are no kernels; what is written to is.
        return any(
            x.alias_info is not None and x.alias_info.is_write for x in func._schema.arguments
        )
    aliases = [result.alias_info for result in returns]
    return not any(alias is not None and not alias.is_write for alias in aliases)


def _kernel(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Kernel:
    count = flop_registry.get(func._overloadpacket)
    flops = count(*args, **kwargs, out_val=out) if count is not None else 0
    outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
    inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if func._opname in _ROWS:
        inputs = [*inputs[1:], *outputs]
    return Kernel(func._opname, int(flops), sum(map(_bytes, [*inputs, *outputs])))


def _bytes(tensor: Tensor) -> int:
    """Of the numbers that lie in memory: what is expanded is read once."""
    if tensor.layout != torch.strided:
        return tensor.numel() * tensor.element_size()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    count = 1
    for size, stride in sizes:
        count *= size if stride else 1
    return count * tensor.element_size()
