"""Estimate of the device memory of a training step, item by item.

What a formula can say exactly is computed from the model and one micro-batch: weights, gradients,
optimizer, and what the language model keeps for the backward pass. Projector and mask decoder are
small but have no short formula: they run once on the CPU and what autograd kept is counted. The
model may be on the meta device, so a 7B run is estimated on a laptop.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...model.batch import IGNORE, Batch
from ...model.losses import mask_losses
from ...model.ris import RisModel
from ...model.trainable import parameters_by_part
from ...pipeline.display import counted
from .activations import LanguageModel, saved_bytes, tensors_of

Optimizer = Literal["adamw", "adamw8bit", "offload"]
# Bytes per trained number on the device and in the computer's memory: two float32 moments; two
# 8-bit moments with a float32 scale per 256; moments and master copy, all on the CPU.
STATES: dict[str, tuple[float, float]] = {
    "adamw": (8.0, 0.0),
    "adamw8bit": (2.0 + 2 * 4 / 256, 0.0),
    "offload": (0.0, 12.0),
}
GIB = 1 << 30
CONTEXT = GIB // 2  # CUDA context, cuBLAS and cuDNN workspaces of one process
SLACK = 0.05  # of everything else: what a caching allocator cannot hand out again


@dataclass(frozen=True, slots=True)
class Line:
    """One item: bytes and the formula they come from; `host` marks the computer's own memory."""

    what: str
    bytes: int
    formula: str
    host: bool = False


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Peak memory of one process; `device` and `host` are sums of the lines, in bytes."""

    items: tuple[Line, ...]

    @property
    def device(self) -> int:
        return sum(item.bytes for item in self.items if not item.host)

    @property
    def host(self) -> int:
        return sum(item.bytes for item in self.items if item.host)

    def lines(self) -> list[str]:
        """A line per item with its formula, then the sums."""
        body = [f"{i.what:<22}{i.bytes / GIB:>9.3f} GiB  {i.formula}" for i in self.items]
        body.append(f"{'device, in all':<22}{self.device / GIB:>9.3f} GiB  per process")
        if self.host:
            body.append(f"{'host, in all':<22}{self.host / GIB:>9.3f} GiB  per process")
        return body

    def to_json(self) -> dict[str, object]:
        """Bytes per item and the sums."""
        items = {item.what: item.bytes for item in self.items}
        return {"items": items, "device": self.device, "host": self.host}


def estimate_memory(
    model: RisModel,
    batch: Batch,
    *,
    optimizer: Optimizer = "adamw",
    checkpointing: bool = True,
    autocast: torch.dtype | None = None,
) -> MemoryEstimate:
    """Memory of a step on `batch`, a typical micro-batch on the CPU, for what trains in `model` now.

    optimizer      a key of `STATES`
    checkpointing  the language model's layers are recomputed in the backward pass
    autocast       dtype of the arithmetic if it is not that of the weights

    The model is not changed; it may be on the meta device.
    """
    small, batch = small_parts(model), batch.with_layout()
    with torch.autocast("cpu", autocast) if autocast else nullcontext():
        (_, valid), in_projector = saved_bytes(lambda: small.tokens(batch), small, batch)
        _, in_masks = saved_bytes(lambda: _mask_path(small, batch), small, batch)
    length = int((batch.lengths - 1 + valid.sum(1)).max())
    places = len(batch.ids) * length
    lm = LanguageModel.of(model.lm, autocast)
    answers = int((batch.labels != IGNORE).sum())
    masks = f"{counted(len(batch.seg_row), 'mask')}, counted on the CPU"
    items = [
        *_fixed(model, optimizer, autocast),
        Line("batch", *_batch(batch)),
        Line(
            "projector", in_projector, f"{counted(int(valid.sum()), 'token')}, counted on the CPU"
        ),
        Line("language model", *lm.kept(places, checkpointing)),
        Line("vocabulary", *lm.head(answers)),
        Line("mask decoder, losses", in_masks, masks),
    ]
    used = sum(item.bytes for item in items if not item.host)
    extra = f"{CONTEXT / GIB:.1f} GiB + {SLACK:.0%} of the above (assumed)"
    items.append(Line("context, slack", CONTEXT + int(SLACK * used), extra))
    return MemoryEstimate(tuple(items))


def _fixed(model: RisModel, optimizer: str, autocast: torch.dtype | None) -> list[Line]:
    """Memory that does not depend on the batch."""
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    device, host = STATES[optimizer]
    lines = [
        Line("weights", *_weights(parameters)),
        Line("gradients", 4 * trained, f"{_m(trained)} x 4"),
    ]
    if autocast:
        owned = parameters_by_part(model)
        # Looked up, never multiplied: the embedding has no copy in the arithmetic's dtype, unless it
        # is the head, too.
        looked_up = set() if model.lm.config.tie_word_embeddings else {"embedding"}
        copied = sum(
            p.numel()
            for part, members in owned.items()
            for p in members
            if part not in looked_up and p.requires_grad and p.dtype != autocast
        )
        size = autocast.itemsize
        lines.append(Line("autocast copies", size * copied, f"{_m(copied)} x {size}"))
    if device:
        lines.append(Line("optimizer", int(device * trained), f"{_m(trained)} x {device:g}"))
    if host:
        formula = f"{_m(trained)} x {host:g}"
        lines.append(Line("optimizer (host)", int(host * trained), formula, host=True))
    return lines


def _weights(parameters: list[nn.Parameter]) -> tuple[int, str]:
    sizes: dict[torch.dtype, int] = {}
    for parameter in parameters:
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    total = sum(count * dtype.itemsize for dtype, count in sizes.items())
    return total, " + ".join(f"{_m(count)} x {dtype.itemsize}" for dtype, count in sizes.items())


def _batch(batch: Batch) -> tuple[int, str]:
    parts = tensors_of(batch)
    return sum(x.numel() * x.itemsize for x in parts), counted(len(batch.ids), "image")


def small_parts(model: RisModel) -> RisModel:
    """The model without its language model, on the CPU; a meta model gets memory, not values."""
    if not any(p.is_meta for p in model.parameters()):
        return model
    small = copy.deepcopy(model, {id(model.lm): nn.Identity()})
    return small.to_empty(device="cpu")


def _mask_path(model: RisModel, batch: Batch) -> Tensor:
    """Memory from the states of the [SEG]s to the losses, on states of zeros."""
    width = next(model.to_prompt.parameters()).shape[1]
    states = torch.zeros(len(batch.seg_row), width, requires_grad=True)
    masks = batch.layout.masks
    bce, dice = mask_losses(model.masks_of(states, masks, batch), masks.targets(), masks.beyond())
    return bce + dice


def _m(count: int) -> str:
    return f"{count / 1e6:,.1f}M"
