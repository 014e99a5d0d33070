"""Time per component of a training step: the model cut at the components' borders.

Hooks note when a component has finished its forward pass. For the backward pass they also cut the
graph there: a component's output becomes a leaf, so the backward pass runs piece by piece from one
leaf to the one before. The gradients are those of the uncut graph, and every instant (or every
floating-point operation) between two readings belongs to exactly one component.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...model.batch import Batch
from ...model.inference.generate import generate
from ...model.inference.precision import arithmetic
from ...model.losses import Losses, Weights
from ...model.projectors import Projector
from ...model.projectors.fusion import Fusion
from ...model.projectors.svp import SVP
from ...model.ris import RisModel

Lap = Callable[[str], None]
CLIP = 1.0
# In the order of the paper's Fig. 10, from the photograph to the mask.
COMPONENTS = (
    "copy", "vision encoder", "SAM encoder", "superpixels", "projector", "LLM", "LLM prefill",
    "LLM decode", "mask decoder", "optimizer",
)  # fmt: skip
CAPTURED = "captured answer"  # projector, LLM and mask decoder, which a graph does not tell apart
# Of an SVP projector, in the order of work; "pooling" is Eq. 2 where there is no SSA.
INSIDE = ("SSPE", "SSA", "pooling", "MLP")


class Meter:
    """Attributes what a rising reading (seconds, operations) gained to the part that caused it.

    parts   by component
    inside  of the component "projector" by the names of `INSIDE`, where laps told them apart
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self.parts: dict[str, float] = {}
        self.inside: dict[str, float] = {}
        self._last = 0.0

    def start(self) -> None:
        """Forget the past; from here on it counts."""
        self.parts, self.inside, self._last = {}, {}, self._read()

    def lap(self, part: str) -> None:
        """All that was gained since the last call belongs to `part`, or to "projector/PART"."""
        now = self._read()
        gained, self._last = now - self._last, now
        part, _, inner = part.partition("/")
        self.parts[part] = self.parts.get(part, 0.0) + gained
        if inner:
            self.inside[inner] = self.inside.get(inner, 0.0) + gained


@dataclass
class Cuts:
    """Per component, its outputs in the graph and the leaves that replace them."""

    pairs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def at(self, part: str, output: Tensor) -> Tensor:
        """The leaf for `output`; `output` itself where no graph is built."""
        if not output.requires_grad:
            return output
        leaf = output.detach().requires_grad_()
        self.pairs[part] = (output, leaf)
        return leaf

    def backward(self, part: str) -> None:
        """Continue the backward pass below the leaf of `part`."""
        output, leaf = self.pairs.pop(part)
        output.backward(leaf.grad)  # type: ignore[no-untyped-call]


@contextmanager
def inside(projector: Projector, lap: Lap) -> Iterator[str]:
    """While open, the parts of an SVP tell `lap` as "projector/PART" that they are done.

    What leads up to a part belongs to it: masks are packed for the SSPE, superpixels for the MLP.
    Gives the name for what is left when the projector ends: "projector/MLP", or "projector" where a
    projector has no such parts.
    """
    parts = projector.parts if isinstance(projector, Fusion) else [projector]
    hooks = []
    for part in parts:
        if not isinstance(part, SVP):
            continue
        for module, name in ((part.sspe, "SSPE"), (part.ssa, "SSA"), (part.mlp, "MLP")):
            if module is not None:
                hooks.append(module.register_forward_hook(_teller(lap, name)))
        if part.ssa is None:
            hooks.append(part.mlp.register_forward_pre_hook(_teller(lap, "pooling")))
    try:
        yield "projector/MLP" if hooks else "projector"
    finally:
        for hook in hooks:
            hook.remove()


def _teller(lap: Lap, name: str) -> Callable[..., None]:
    """Hook that reports to `lap`; usable as any kind, because it ignores its arguments."""
    return lambda *_: lap(f"projector/{name}")


@contextmanager
def borders(model: RisModel, lap: Lap, rest: str = "projector") -> Iterator[Cuts]:
    """While open, projector, LLM and its head tell `lap` that they are done, and graphs are cut.

    rest  what the projector's end is told as, see `inside`
    """
    cuts = Cuts()

    def projected(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        lap(rest)
        return cuts.at("projector", output[0]), output[1]

    def understood(_: nn.Module, __: Any, output: Any) -> Any:
        lap("LLM")
        output.last_hidden_state = cuts.at("LLM", output.last_hidden_state)
        return output

    def said(_: nn.Module, __: Any, ___: Any) -> None:
        lap("LLM")

    hooks = [
        model.projector.register_forward_hook(projected),
        model.lm.model.register_forward_hook(understood),
        model.lm.lm_head.register_forward_hook(said),
    ]
    try:
        yield cuts
    finally:
        for hook in hooks:
            hook.remove()


def train_batch(
    model: RisModel, batch: Batch, lap: Lap, weights: Weights, counts: tuple[int, int]
) -> None:
    """Forward and backward of one micro-batch, gradients added up; `counts` (tokens, masks) of the
    whole step. Half precision is the device's bfloat16 where the LLM's layers have it.
    """
    with borders(model, lap) as cuts:
        with arithmetic(model):
            losses: Losses = model(batch)
            lap("mask decoder")
            words, shapes = losses.words(weights, counts[0]), losses.shapes(weights, counts[1])
        words.backward()  # type: ignore[no-untyped-call]
        lap("LLM")
        shapes.backward()  # type: ignore[no-untyped-call]
        lap("mask decoder")
        for part in ("LLM", "projector"):
            cuts.backward(part)
            lap(part)


def finish_step(model: RisModel, optimizer: Optimizer, lap: Lap) -> None:
    """Clip, step and forget the gradients."""
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], CLIP)
    optimizer.step()
    optimizer.zero_grad()
    lap("optimizer")


@torch.no_grad()
def forward(model: RisModel, batch: Batch, lap: Lap) -> None:
    """Masks of a teacher-forced dialogue: the paper's inference."""
    with inside(model.projector, lap) as rest, borders(model, lap, rest), arithmetic(model):
        model.predict(batch)
    lap("mask decoder")


def answer(model: RisModel, batch: Batch, lap: Lap, seg: int, count: int) -> list[int]:
    """`count` ids generated with a cache after an open dialogue, and the mask of the first `seg`.

    Returns the ids. The time up to the first of them is "LLM prefill", the rest "LLM decode".
    """
    calls = iter(("LLM prefill", "LLM prefill"))  # the layers, then the head

    def split(part: str) -> None:
        lap(next(calls, "LLM decode") if part == "LLM" else part)

    with inside(model.projector, lap) as rest, borders(model, split, rest), arithmetic(model):
        answers = generate(model, batch, seg=seg, eos=-1, max_new_tokens=count)
    lap("mask decoder")
    return answers.ids[0]


def counts_of(batches: Sequence[Batch]) -> tuple[int, int]:
    """Supervised tokens and masks of a step."""
    tokens = sum(int((batch.labels >= 0).sum()) for batch in batches)
    return tokens, sum(len(batch.seg_row) for batch in batches)
