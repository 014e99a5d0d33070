"""Compiled passes of a model that answers.

The kernels of a pass of one answer are shorter than the host takes to launch them. Compiled, they are
fewer, and on CUDA the pass becomes one graph that is launched as a whole. A graph has fixed shapes:
text is padded to multiples of `TEXT` ids, superpixels to multiples of `SUPERPIXELS`, so that one
serves all answers of a bucket. Padding changes no answer: it is on the right of causal attention,
and no token is made of a superpixel that is not valid.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batch import IGNORE, Batch, MaskLayout
from ..projectors.fusion import Fusion
from ..projectors.svp import SVP
from ..ris import RisModel, split_by_image
from .key_values import KeyValues

TEXT, SUPERPIXELS, SLOTS = 16, 8, 64
BUCKETS = 64  # shapes for which a pass is compiled at most


class Compiled:
    """`function`, compiled for each shape of its arguments; results are the caller's own.

    backend  of torch.compile. "inductor" also captures CUDA graphs
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], backend: str) -> None:
        mode = "reduce-overhead" if backend == "inductor" else None
        self._plain = function
        self._call: Callable[..., tuple[Tensor, ...]] = torch.compile(
            function, backend=backend, mode=mode, fullgraph=True, dynamic=False
        )
        self.shapes: set[tuple[Any, ...]] = set()

    def __call__(self, *arguments: Any, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """shape: all of the arguments' shapes that may differ from call to call"""
        if shape not in self.shapes and len(self.shapes) == BUCKETS:
            return self._plain(*arguments)
        self.shapes.add(shape)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch._dynamo.config.patch(recompile_limit=BUCKETS + 1):
            found = self._call(*arguments)
        # A graph writes its results to the same place at every launch.
        return tuple(one.clone() for one in found)


class Passes:
    """The language model's passes of a model that answers.

    To be called without gradients, and not in inference mode: a tensor made in it is of another
    kind, for which a pass would be compiled again.

    backend  of torch.compile; None: nothing is compiled, and nothing is padded
    """

    def __init__(self, model: RisModel, backend: str | None = None) -> None:
        self.model, self.backend = model, backend
        self._buffers: dict[tuple[int, int], KeyValues] = {}
        if backend is not None:
            self._whole = Compiled(self._states, backend)
            self._next = Compiled(self._step, backend)
            self._after = Compiled(self._rest, backend)

    def predict(self, batch: Batch) -> list[Tensor]:
        """As `RisModel.predict`."""
        if self.backend is None or not _fixed(self.model, batch.visual.grid):
            return self.model.predict(batch)
        batch = batch.with_layout()
        padded, layout = bucketed(batch), batch.layout
        n = 0 if padded.visual.valid is None else padded.visual.valid.shape[1]
        shape = (*padded.ids.shape, n, len(batch.seg_row))
        (mine,) = self._whole(padded, shape=shape)
        logits = self.model.masks_of(mine, layout.masks, batch)
        return split_by_image(logits, layout.masks.images, batch.sizes)

    def buffers(self, rows: int, positions: int) -> KeyValues:
        """Buffers for `rows` sequences, whose earlier content is lost."""
        if self.backend is None:
            return KeyValues(self.model.lm, rows, positions)
        size = _multiple(positions, SLOTS)
        if (rows, size) not in self._buffers:
            # A graph reads and writes them where they were when it was captured.
            self._buffers[rows, size] = made = KeyValues(self.model.lm, rows, size)
            for buffer in (made.keys, made.values):
                torch._dynamo.mark_static_address(buffer)
        known = self._buffers[rows, size]
        # What is masked has weight 0, and 0 times a NaN of an earlier photograph is NaN.
        known.keys.zero_()
        known.values.zero_()
        known.skipped = 0
        return known

    def step(self, token: Tensor, position: Tensor, known: KeyValues) -> tuple[Tensor, Tensor]:
        """Read ids (B,1) at `position` (B,1): their states (B,D), the most likely next ids (B,1)."""
        if self.backend is None:
            return self._step(token, position, known)
        state, following = self._next(token, position, known, shape=known.keys.shape)
        return state, following

    def rest(self, ids: Tensor, start: int, row: Tensor, col: Tensor, known: KeyValues) -> Tensor:
        """Read ids (B,Q) from position `start` on: the states (S,D) at (row, col) of them (S,)."""
        if self.backend is not None:
            ids = F.pad(ids, (0, _multiple(ids.shape[1], TEXT) - ids.shape[1]))
        position = start + torch.arange(ids.shape[1], device=ids.device)[None]
        if self.backend is None:
            return self._rest(ids, position, row, col, known)[0]
        shape = (*ids.shape, len(row), *known.keys.shape)
        return self._after(ids, position, row, col, known, shape=shape)[0]

    def _states(self, batch: Batch) -> tuple[Tensor]:
        """Of each [SEG] the state that its mask is made of (S,D)."""
        merged = self.model.merged(batch)
        place = merged.index(batch.seg_row, batch.seg_col)
        before = int(self.model.mask_state == "predicting")
        return (self.model.states(merged)[batch.seg_row, place - before],)

    def _step(self, token: Tensor, position: Tensor, known: KeyValues) -> tuple[Tensor, Tensor]:
        state = known.read(self.model.lm, self.model.embedded(token), position)[:, 0]
        return state, self.model.scores(state).argmax(1, keepdim=True)

    def _rest(
        self, ids: Tensor, position: Tensor, row: Tensor, col: Tensor, known: KeyValues
    ) -> tuple[Tensor]:
        states = known.read(self.model.lm, self.model.embedded(ids), position)
        return (states[row, col],)


def bucketed(batch: Batch) -> Batch:
    """`batch` padded to the shapes of its bucket, as if all superpixels were real.

    Its layout is the same for all batches of the bucket.
    """
    rows, text = batch.ids.shape
    more = _multiple(text, TEXT) - text
    ids, labels = (
        F.pad(x, (0, more), value=v) for x, v in ((batch.ids, 0), (batch.labels, IGNORE))
    )
    visual, layout = batch.visual, batch.layout
    if visual.valid is not None:
        count = visual.valid.shape[1]
        wide = _multiple(count, SUPERPIXELS)

        def widened(x: Tensor | None) -> Tensor | None:
            pad = [0, 0] * (0 if x is None else x.ndim - 2) + [0, wide - count]
            return None if x is None else F.pad(x, pad)

        visual = replace(
            visual, cover=widened(visual.cover), masks=widened(visual.masks),
            valid=widened(visual.valid), means=widened(visual.means),
        )  # fmt: skip
        every = torch.arange(rows * wide, device=ids.device)
        layout = replace(layout, superpixels=(wide,) * rows, real=every)
    nothing = layout.label_row[:0]
    layout = replace(
        layout, lengths=(text + more,) * rows, label_row=nothing, label_col=nothing,
        masks=MaskLayout.of(batch, ()), shared=0, slot=0, segs=(0, 0),
    )  # fmt: skip
    padded = replace(batch, ids=ids, labels=labels, visual=visual, sizes=(), sent_ids=())
    return padded._knowing(layout)


def _fixed(model: RisModel, grid: tuple[int, int]) -> bool:
    """Whether the shapes of the projector's work depend on those of its inputs alone."""
    projector = model.projector
    if projector.num_tokens(grid) is None and "masks" not in projector.needs:
        return False  # it counts by the features
    parts = projector.parts if isinstance(projector, Fusion) else [projector]
    return not any(isinstance(x, SVP) and x.mask_budget_mode == "per_image" for x in parts)


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of
