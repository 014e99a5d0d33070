"""Strip wrapper prefixes (DDP, torch.compile, FSDP, Lightning) from tensor names.

DDP, torch.compile, FSDP and checkpointing add a part to every name below the module they wrap;
Lightning and most training scripts hold the model as an attribute and save its name in front. Both
say nothing about the weights, so they are taken off. What is not all of one model is told, not cut.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..display import counted, show
from ..errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

WRAPPING = frozenset(
    {
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
    }
)


def plain_names(
    state: "Mapping[str, Tensor]", anchors: Sequence[str], where: str
) -> "dict[str, Tensor]":
    """`state` with the names its model has itself.

    anchors  names of which the model has one, the first that is found decides; a state without any
             is returned with its own names, for the strict check to report

    Raises WeightsError if two names become one, if the anchor is there twice (student and teacher),
    or if the model lies beside other tensors.

    >>> plain_names({"module.sam.iou.weight": 1, "module.sam.neck.bias": 2}, ["iou.weight"], "f")
    {'iou.weight': 1, 'neck.bias': 2}
    """
    bare: dict[str, Tensor] = {}
    for name, tensor in state.items():
        inner = ".".join(part for part in name.split(".") if part not in WRAPPING)
        if inner in bare:
            raise WeightsError(f"{show(where, 200)}: {show(inner)} is there twice, with and without "
                               "a wrapper's prefix: save the state dict of one model")  # fmt: skip
        bare[inner] = tensor
    for anchor in anchors:
        found = [n for n in bare if n == anchor or n.endswith(f".{anchor}")]
        if found:
            return _under({name.removesuffix(anchor) for name in found}, bare, where)
    return bare


def _under(prefixes: set[str], state: "dict[str, Tensor]", where: str) -> "dict[str, Tensor]":
    if "" in prefixes:
        return state
    if len(prefixes) > 1:
        raise WeightsError(
            f"{show(where, 200)}: it contains several models, under "
            f"{', '.join(show(p) for p in sorted(prefixes))}: save the state dict of one alone"
        )
    (prefix,) = prefixes
    if outside := [name for name in state if not name.startswith(prefix)]:
        raise WeightsError(
            f"{show(where, 200)}: the model is under {show(prefix)}, beside "
            f"{counted(len(outside), 'other tensor')} ({show(outside[0])}, ...): save its state "
            f"dict alone, torch.save(whole.{show(prefix).rstrip('.')}.state_dict(), FILE)"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
