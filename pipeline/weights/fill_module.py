"""Load tensors into freshly built modules, one at a time."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..display import counted, fold, show
from ..errors import WeightsError
from .key_report import finite


def fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    what: str,
    *,
    mapped: bool = False,
    checked: bool = False,
) -> None:
    """Strictly put `tensors` into `module`, in the dtype and on the device each has there.

    A tensor on the meta device becomes a new one on the CPU, or with `mapped` the given one itself
    if its dtype is right. `checked` says that all numbers are known to be finite. Whether parameters train is kept. Memory beyond the module is that of one
    tensor. Raises WeightsError if names or shapes differ, or a tensor holds NaN or infinity.
    """
    targets = module.state_dict(keep_vars=True)
    _require_same(targets, tensors, what)
    for name, target in targets.items():
        source = tensors[name]
        if not checked and not finite(source):
            raise WeightsError(f"{what}: {show(name)} holds NaN or infinity: get the file again")
        if target.is_meta:
            _replace(module, name, source.to(target.dtype, copy=not mapped))
        else:
            with torch.no_grad():
                target.copy_(source)


def _require_same(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str) -> None:
    odd = sorted(targets.keys() ^ tensors.keys())
    odd += [n for n, t in targets.items() if n in tensors and t.shape != tensors[n].shape]
    if odd:
        raise WeightsError(
            f"{what}: {counted(len(odd), 'tensor', 'differ')} in name or shape: "
            f"{', '.join(fold(odd))}. The weights were saved from a model of another configuration"
        )


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in the place of a meta parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    old = getattr(owner, leaf)
    if isinstance(old, nn.Parameter):
        setattr(owner, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        owner.register_buffer(leaf, value)
