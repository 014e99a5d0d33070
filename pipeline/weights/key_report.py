"""Strict comparison of a state dict with the tensors a model needs.

A checkpoint that fits only in part gives random masks without an error (JIA-Lab-research/LISA#56),
so every missing, unexpected, misshapen or non-finite tensor is named, and none is tolerated.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..display import counted, show
from ..errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHECKED = 1 << 22  # numbers
_NAMED = 8  # names listed per kind of fault: enough to recognise the cause, short enough to read


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype ("float32", "int64"...) of one tensor; a scalar has shape ()."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}"


@dataclass(frozen=True, slots=True)
class KeyReport:
    """Result of `check_keys`; `str()` is the one line a user sees.

    expected    number of tensors the model needs
    matched     of these, present with the right shape and dtype
    missing     names the model needs and the file lacks
    unexpected  names in the file the model has no place for
    wrong       "name: has SHAPE DTYPE, needs SHAPE DTYPE"
    unused      names that belong to the layout but that no forward pass reads
    """

    expected: int
    matched: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        counts = (
            f"{self.matched:,}/{counted(self.expected, 'tensor')}, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected"
        )
        extra = ((self.wrong, "wrong"), (self.unused, "unused"))
        return counts + "".join(f", {len(names)} {kind}" for names, kind in extra if names)

    def details(self) -> str:
        """The faults by name, at most eight of each kind."""
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("wrong", self.wrong),
        )
        return "; ".join(f"{kind}: {_listed(names)}" for kind, names in kinds if names)

    def require(self, where: str, advice: str) -> None:
        """`WeightsError` naming the file, the counts, the tensors and what to do, unless `ok`."""
        if not self.ok:
            raise WeightsError(f"{show(where, 200)}: {self}. {self.details()}. {advice}")


def spec_of(tensor: "Tensor") -> TensorSpec:
    """The `TensorSpec` of a real or meta tensor."""
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def expected_of(module: "nn.Module") -> dict[str, TensorSpec]:
    """Keys and shapes of `module.state_dict()`, in its order; works on meta modules."""
    return {name: spec_of(tensor) for name, tensor in module.state_dict().items()}


def check_keys(
    state: Mapping[str, "Tensor"],
    expected: Mapping[str, TensorSpec],
    *,
    any_float: bool = False,
    unused: Iterable[str] = (),
) -> KeyReport:
    """Compare names, shapes and dtypes; reads no tensor data, so it is safe before any copy.

    `any_float` accepts any floating dtype where float32 is expected (the caller then casts);
    `unused` names tensors the caller has dropped on purpose and wants reported.
    """
    missing = tuple(name for name in expected if name not in state)
    unexpected = tuple(name for name in state if name not in expected)
    wrong = tuple(
        f"{name}: has {spec_of(state[name])}, needs {spec}"
        for name, spec in expected.items()
        if name in state and not _fits(spec_of(state[name]), spec, any_float)
    )
    matched = len(expected) - len(missing) - len(wrong)
    return KeyReport(len(expected), matched, missing, unexpected, wrong, tuple(unused))


def load_into(
    module: "nn.Module",
    state: Mapping[str, "Tensor"],
    where: str,
    advice: str,
    *,
    any_float: bool = False,
    unused: Iterable[str] = (),
) -> KeyReport:
    """Strictly load `state` into `module` (real or meta) and put it into eval mode.

    `any_float` and `unused` as in `check_keys`. Raises `WeightsError` if any tensor is missing, unexpected, of
    the wrong shape or dtype, or holds NaN or infinity. Meta parameters take the tensors
    themselves, so a 2.4 GB model is in memory once.
    """
    expected = expected_of(module)
    report = check_keys(state, expected, any_float=any_float, unused=unused)
    report.require(where, advice)
    _require_finite(state, where)
    on_meta = any(parameter.is_meta for parameter in module.parameters())
    cast = {n: t.float() if expected[n].dtype == "float32" else t for n, t in state.items()}
    module.load_state_dict(cast, strict=True, assign=on_meta)
    # Also drops timm's cache of attention biases, which a forward pass before loading has filled.
    module.eval()
    module.requires_grad_(False)
    return report


def finite(tensor: "Tensor") -> bool:
    """Whether no number is NaN or infinite, checked in chunks, without a full-size copy."""
    import torch

    flat = tensor.flatten() if tensor.is_contiguous() else tensor
    return all(bool(part.isfinite().all()) for part in torch.split(flat, _CHECKED))


def _require_finite(state: Mapping[str, "Tensor"], where: str) -> None:
    bad = [n for n, t in state.items() if t.is_floating_point() and not finite(t)]
    if bad:
        raise WeightsError(
            f"{show(where, 200)}: NaN or infinity in {counted(len(bad), 'tensor')}: "
            f"{_listed(tuple(bad))}. The file is damaged or training diverged; get it again"
        )


def _fits(found: TensorSpec, needed: TensorSpec, any_float: bool) -> bool:
    if found.shape != needed.shape:
        return False
    half = (
        any_float
        and needed.dtype == "float32"
        and found.dtype in {"float16", "bfloat16", "float64"}
    )
    return half or found.dtype == needed.dtype


def _listed(names: tuple[str, ...]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(show(name, 160) for name in names[:_NAMED]) + more
