"""From an imported checkpoint to a model: tensors cast one at a time into freshly built modules.

Peak memory is the model plus one tensor: modules are built on the meta device and the sources stay
memory-mapped. The projector is the caller's: published checkpoints hold none of ours.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...pipeline.display import show
from ...pipeline.errors import WeightsError
from ...pipeline.sam.specs import build_sam
from ...pipeline.weights.key_report import finite
from ..language_model import restore_buffers
from ..mask_head import MaskHead
from ..projectors.base import Projector
from ..ris import MaskState, RisModel
from .convert import Imported
from .report import fold


def build_imported(
    imported: Imported,
    projector: Projector,
    *,
    dtype: torch.dtype = torch.bfloat16,
    mask_state: MaskState = "predicting",
) -> RisModel:
    """The model of a checkpoint with `projector` in front, on the CPU.

    The language model gets `dtype`, and where its file has that too its parameters are the mapped
    file itself: nothing is copied, and the ranks of one machine share its pages. L-P projector and mask head are float32 (the checkpoint's own
    precision there). Raises WeightsError if a tensor holds NaN or infinity.
    """
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        lm: Any = LlamaForCausalLM(imported.shape.config())
        lm.to(dtype)
    sam = build_sam("vit_h")
    fill(lm, imported.lm, "language model", mapped=True, checked=imported.finite)
    restore_buffers(lm)
    fill(sam.mask_decoder, imported.mask_decoder, "mask decoder")
    fill(sam.prompt_encoder, imported.prompt_encoder, "prompt encoder")
    head = MaskHead(sam.prompt_encoder, sam.mask_decoder)
    model = RisModel(lm, projector, head, mask_state=mask_state)
    fill(model.to_prompt, imported.to_prompt, "L-P projector")
    return model


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
            f"{what}: {len(odd)} tensors differ in name or shape: {', '.join(fold(odd))}. The "
            "weights were saved from a model of another configuration"
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
