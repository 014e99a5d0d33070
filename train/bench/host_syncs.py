"""Host syncs: calls after which the host waits for the GPU, by the source line that makes them.

Counted on a small model with real tensors on the CPU: a GPU would wait where a value is read, a
number of results is not known beforehand, or a list of Python is copied to the device.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ROOT = Path(__file__).parents[2]
_LIBRARIES = _ROOT.parent, Path(torch.__file__).parent.parent
# Values that Python reads, and operators whose output has as many elements as the data say.
_WAITING = frozenset(
    ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")
    + ("is_nonzero", "equal", "allclose", "nonzero", "argwhere", "masked_select", "unique")
    + ("unique_consecutive", "bincount", "one_hot")
)


class SyncCounter(TorchFunctionMode):
    """While open, counts syncs of this thread: {"model/ris.py:115": 2, ...}."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _waits(getattr(func, "__name__", ""), args, kwargs):
            self.lines[_source_line()] += 1
        return func(*args, **kwargs)


@contextmanager
def host_syncs() -> Iterator[Counter[str]]:
    """Counts by source line of what runs while it is open."""
    with SyncCounter() as counter:
        yield counter.lines


def _waits(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name in _WAITING:
        return True
    if name in ("__getitem__", "__setitem__"):  # a mask selects as many as it has ones
        keys = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(
            isinstance(key, Tensor) and key.dtype in (torch.bool, torch.uint8) for key in keys
        )
    if name == "where":
        return len(args) + len(kwargs) == 1
    if name == "repeat_interleave":
        repeats = kwargs.get("repeats", args[1] if len(args) > 1 else None)
        return isinstance(repeats, Tensor) and kwargs.get("output_size") is None
    if name in ("tensor", "as_tensor"):  # nothing is copied for an empty list
        return kwargs.get("device") is not None and args[0] != []
    return False


def _source_line() -> str:
    """The innermost line outside of torch and of this module, its file as package/path."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if path != Path(__file__) and "torch" not in path.parts:
            break
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    for root in (_ROOT, *_LIBRARIES):
        if path.is_relative_to(root):
            return f"{path.relative_to(root).as_posix()}:{frame.f_lineno}"
    return f"{path.name}:{frame.f_lineno}"
