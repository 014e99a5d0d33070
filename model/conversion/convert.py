"""Sort a GLaMM or LISA state dict into the parts of our model, strictly and with a report.

Names and shapes that a checkpoint must hold come from the modules themselves, built on the meta
device, so the list cannot disagree with the model. No tensor is copied here: groups refer to the
memory-mapped tensors of the file, so a 17 GB checkpoint costs no memory until `build_imported`
casts its parts one by one; linears with LoRA matrices to merge are the exception. Invariant: every
tensor of the file is loaded, merged, or dropped by a named rule; anything else is an error that
lists all such tensors.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...pipeline.display import show
from ...pipeline.errors import ConfigError, WeightsError
from ...pipeline.weights.load import load_state_dict, require_finite
from ...pipeline.weights.rehearsal import VARIABLE
from . import key_mapping
from .key_mapping import LLAMA_VOCAB, Layout, choose_layout
from .llama_shape import LlamaShape, read_shape
from .merge_lora import merge_lora
from .report import ImportReport, Part, count_by

Shapes = dict[str, tuple[int, ...]]
PROMPT = 256  # channels of a SAM prompt


def expected_shapes(
    shape: LlamaShape, groups: Mapping[str, Mapping[str, "Tensor"]]
) -> dict[str, Shapes]:
    """Shapes per group: the required groups always, an optional one where `groups` has it."""
    wanted = {
        key_mapping.LM: _llama(shape),
        key_mapping.TO_PROMPT: _linears(shape.hidden, shape.hidden, PROMPT, names=("0", "2")),
        key_mapping.DECODER: _sam("mask_decoder"),
        key_mapping.PROMPT_ENCODER: _sam("prompt_encoder"),
    }
    if groups.get(key_mapping.IMAGE_ENCODER):
        wanted[key_mapping.IMAGE_ENCODER] = _sam("image_encoder")
    if projector := groups.get(key_mapping.MM_PROJECTOR):
        wanted[key_mapping.MM_PROJECTOR] = _mm_projector(shape.hidden, projector)
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
def _sam_under(part: str, rehearsal: str | None) -> Shapes:
    """`rehearsal` names the file of its settings, which narrow SAM's encoder."""
    from ...pipeline.sam.build import build_sam

    sam: Any = build_sam("vit_h")
    return _shapes(getattr(sam, part))


def _shapes(module: "nn.Module") -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_FLOATS = {"float32", "bfloat16", "float16"}
Groups = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Imported:
    """The parts of a checkpoint under the names of the modules that take them.

    lm                 `LlamaForCausalLM`; vocab rows in the order of `layout.ids()`
    to_prompt          L-P projector: linears "0" and "2"
    mask_decoder       `segment_anything` MaskDecoder
    prompt_encoder     `segment_anything` PromptEncoder
    mm_projector       CLIP's projector: "0.*" and "2.*", or LISA's single "weight" and "bias"
    sam_image_encoder  `segment_anything` ImageEncoderViT (ViT-H)

    finite             that no number of `lm` is NaN or infinite has been checked

    Projector and image encoder are empty unless asked for. Tensors have the dtypes of the file.
    """

    layout: Layout
    shape: LlamaShape
    report: ImportReport
    lm: dict[str, Tensor]
    to_prompt: dict[str, Tensor]
    mask_decoder: dict[str, Tensor]
    prompt_encoder: dict[str, Tensor]
    mm_projector: dict[str, Tensor]
    sam_image_encoder: dict[str, Tensor]
    finite: bool = False


def import_ris_checkpoint(
    state: Mapping[str, Tensor],
    shape: LlamaShape,
    *,
    layout: str = "auto",
    keep: Collection[str] = (),
    lora_alpha: float = 16.0,
    base_vocab: int = LLAMA_VOCAB,
    where: str = "checkpoint",
) -> Imported:
    """Sort `state` into an `Imported`.

    shape       of the language model, from its config.json
    layout      "auto", "glamm" or "lisa"
    keep        optional groups to load: "mm_projector", "sam_image_encoder"
    lora_alpha  scale of unmerged LoRA matrices, if the checkpoint has any
    where       name of the checkpoint in messages

    Raises ConfigError (layout, keep) and WeightsError (missing, unknown, misshapen tensors,
    another vocabulary, rows of added tokens that were never trained).
    """
    if unknown := set(keep) - key_mapping.OPTIONAL.keys():
        raise ConfigError(
            f"keep={show(sorted(unknown))}: allowed are {', '.join(key_mapping.OPTIONAL)}"
        )
    chosen = choose_layout(state, layout)
    groups, report = _sort(state, shape, chosen.name, keep, lora_alpha)
    report.require(where)
    chosen.check_vocabulary(shape.vocab, base_vocab)
    _check_added_rows(groups[key_mapping.LM], chosen, base_vocab, where)
    return Imported(
        chosen,
        shape,
        report,
        groups[key_mapping.LM],
        groups[key_mapping.TO_PROMPT],
        groups[key_mapping.DECODER],
        groups[key_mapping.PROMPT_ENCODER],
        groups.get(key_mapping.MM_PROJECTOR, {}),
        groups.get(key_mapping.IMAGE_ENCODER, {}),
    )


def _sort(
    state: Mapping[str, Tensor],
    shape: LlamaShape,
    layout: str,
    keep: Collection[str],
    alpha: float,
) -> tuple[Groups, ImportReport]:
    """Groups of tensors, and the report on them with all faults."""
    groups, dropped, faults = _by_rule(state, keep)
    lora = groups.pop(key_mapping.LORA, {})
    expected = expected_shapes(shape, groups)
    missing, unknown, wrong = [], list(faults["unknown"]), list(faults["wrong"])
    for group, wanted in expected.items():
        found = groups.setdefault(group, {})
        missing += [f"{group}: {name}" for name in wanted if name not in found]
        unknown += [f"{group}: {name}" for name in found if name not in wanted]
        wrong += _misfits(group, found, wanted)
    parts = tuple(_part(group, groups[group], expected[group]) for group in expected)
    lost, unfit = merge_lora(groups[key_mapping.LM], lora, alpha)
    return groups, ImportReport(
        layout,
        len(state),
        parts,
        count_by(dropped),
        len(lora),
        (*missing, *lost),
        tuple(unknown),
        (*wrong, *unfit),
    )


def _by_rule(
    state: Mapping[str, Tensor], keep: Collection[str]
) -> tuple[Groups, list[str], dict[str, list[str]]]:
    groups: Groups = {}
    dropped: list[str] = []
    faults: dict[str, list[str]] = {"unknown": [], "wrong": []}
    for name, tensor in state.items():
        found = key_mapping.find(name)
        if found is None:
            faults["unknown"].append(name)
            continue
        rule, inner = found
        why = (
            rule.why
            if rule.group in {"", *keep}
            else key_mapping.OPTIONAL.get(rule.group, rule.why)
        )
        if why:
            dropped.append(why)
        elif inner in groups.setdefault(rule.group, {}):
            faults["wrong"].append(f"{name}: a second tensor for {rule.group}: {inner}")
        else:
            groups[rule.group][inner] = tensor
    return groups, dropped, faults


def _misfits(
    group: str, found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Tensors whose shape or dtype does not fit; any floating dtype does, `build_imported` casts."""
    bad = []
    for name, tensor in found.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        sizes = "x".join(map(str, tensor.shape))
        if name in wanted and (tuple(tensor.shape) != wanted[name] or dtype not in _FLOATS):
            needed = "x".join(map(str, wanted[name]))
            bad.append(f"{group}: {name}: has {sizes} {dtype}, needs {needed} float")
    return bad


def _part(group: str, found: Mapping[str, Tensor], wanted: Collection[str]) -> Part:
    tensors = [tensor for name, tensor in found.items() if name in wanted]
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors}
    numbers = sum(tensor.numel() for tensor in tensors)
    return Part(group, len(tensors), numbers, tuple(sorted(dtypes)))


def _check_added_rows(lm: Mapping[str, Tensor], layout: Layout, base: int, where: str) -> None:
    """Rows of the added tokens were trained: a zero or non-finite one means ids do not line up."""
    for part in (EMBEDDING, HEAD):
        for token, row in layout.ids(base).items():
            norm = float(lm[part][row].float().norm())
            if not 0 < norm < float("inf"):
                raise WeightsError(
                    f"{show(where, 200)}: {part} row {row} ({token}) has norm {norm}: untrained or "
                    f"damaged, or this is not layout {layout.name}"
                )


def open_ris_checkpoint(
    path: Path,
    *,
    layout: str = "auto",
    keep: Collection[str] = (),
    lora_alpha: float = 16.0,
) -> Imported:
    """Import a folder (sharded .bin or .safetensors) or a single file, memory-mapped.

    Arguments and errors as `import_ris_checkpoint`, and MissingError where a file is not there.
    """
    state = load_state_dict(path)
    shape = read_shape(path if path.is_dir() else path.parent)
    found = import_ris_checkpoint(
        state, shape, layout=layout, keep=keep, lora_alpha=lora_alpha, where=str(path)
    )
    require_finite(path, _of_lm)
    return replace(found, finite=True)


def _of_lm(name: str) -> bool:
    found = key_mapping.find(name)
    return found is not None and found[0].group == key_mapping.LM
