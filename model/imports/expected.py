"""Names and shapes a checkpoint has to hold, taken from the modules that will hold them.

The modules are built on the meta device, so the list can never disagree with the model.
"""

import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from ...pipeline.rehearsal import VARIABLE
from . import rules
from .shape import LlamaShape

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]
PROMPT = 256  # channels of a SAM prompt


def expected_shapes(
    shape: LlamaShape, groups: Mapping[str, Mapping[str, "Tensor"]]
) -> dict[str, Shapes]:
    """Shapes per group: the required groups always, an optional one where `groups` has it."""
    wanted = {
        rules.LM: _llama(shape),
        rules.TO_PROMPT: _linears(shape.hidden, shape.hidden, PROMPT, names=("0", "2")),
        rules.DECODER: _sam("mask_decoder"),
        rules.PROMPT_ENCODER: _sam("prompt_encoder"),
    }
    if groups.get(rules.IMAGE_ENCODER):
        wanted[rules.IMAGE_ENCODER] = _sam("image_encoder")
    if projector := groups.get(rules.MM_PROJECTOR):
        wanted[rules.MM_PROJECTOR] = _mm_projector(shape.hidden, projector)
    return wanted


def _mm_projector(hidden: int, found: Mapping[str, "Tensor"]) -> Shapes:
    """LISA has one linear, GLaMM two with a GELU between; the input width is the vision tower's."""
    first = found.get("weight", found.get("0.weight"))
    width = first.shape[1] if first is not None and first.ndim == 2 else 1024
    if {"weight", "bias"} & found.keys():
        return {"weight": (hidden, width), "bias": (hidden,)}
    return _linears(width, hidden, hidden, names=("0", "2"))


def _linears(*widths: int, names: tuple[str, ...]) -> Shapes:
    shapes: Shapes = {}
    for name, width, out in zip(names, widths, widths[1:], strict=False):
        shapes |= {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
    return shapes


def _llama(shape: LlamaShape) -> Shapes:
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        return _shapes(LlamaForCausalLM(shape.config()))


def _sam(part: str) -> Shapes:
    """Every published checkpoint carries SAM ViT-H."""
    return _sam_under(part, os.environ.get(VARIABLE))


@cache
def _sam_under(part: str, dial: str | None) -> Shapes:
    """`dial` is the rehearsal's in force: it narrows SAM's encoder."""
    from ...pipeline.sam.architecture import build_sam

    sam: Any = build_sam("vit_h")
    return _shapes(getattr(sam, part))


def _shapes(module: "nn.Module") -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}
