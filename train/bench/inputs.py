"""Batches of the speed comparison, read from the cache or with the encoders in the loop.

Both hold the same dialogues, targets and number of superpixels: cells of a regular grid.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model.batch import IGNORE, Batch, Visual
from ...model.projectors import projector_class
from ...pipeline.encoders import build_encoder
from ...pipeline.fetch.sam_specs import SAMS
from ...pipeline.masks.encoder_view import View, derive, sspe_grid
from ...pipeline.recipe import GridConfig
from ...pipeline.records import LocalPaths, Superpixels
from ...pipeline.sam.segment_anything import SamPackage
from ...pipeline.superpixels.point_grid import GridPrompter
from .components import Lap
from .grid_cells import CellSam, cell_map
from .models import random_sam
from .presets import CELLS, Preset

BUDGET = 4096  # pixels of a mask on the SSPE grid
SLOT = 38  # text index of <image>: the system prompt comes before it
TURN, ANSWER = 28, 8  # text ids of a turn after the first; of an answer, its </s> included
CHUNK = 4  # photographs per call of a live encoder


def cached_batch(preset: Preset, projector: str, images: int, *, sentences: int) -> Batch:
    """`images` rows as the loader gives them, on the CPU: float16, pinned if there is a GPU."""
    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(images, preset.grid**2, preset.channels, generator=draw).half()
    visual = Visual(patches, (preset.grid, preset.grid))
    needs = projector_class(projector).needs
    if "cls" in needs:
        visual = replace(visual, cls=torch.randn(images, preset.channels, generator=draw).half())
    if "multi" in needs:
        layers = torch.randn(images, preset.grid**2, 4 * preset.channels, generator=draw).half()
        visual = replace(visual, multi=layers)
    if "masks" in needs:
        cover, masks = (x.repeat_interleave(images, 0) for x in _cells(preset))
        valid = torch.ones(cover.shape[:2], dtype=torch.bool)
        visual = replace(visual, cover=cover, masks=masks, valid=valid)
    sam = torch.randn(images, *preset.embedding, generator=draw).half()
    batch = _dialogues(preset, visual, sam, sentences, draw)
    return batch.with_layout().pinned() if torch.cuda.is_available() else batch


def opened(batch: Batch) -> Batch:
    """The dialogues up to their answer, for generation."""
    ids = batch.ids[:, :-ANSWER]
    none = batch.seg_row[:0]
    return replace(
        batch,
        ids=ids,
        lengths=batch.lengths - ANSWER,
        labels=torch.full_like(ids, IGNORE),
        seg_row=none,
        seg_col=none,
        packed=None,
        sent_ids=((),) * len(ids),
    )


class LiveEncoders:
    """The frozen encoders and photographs of noise; `lap` is told when each part is done."""

    def __init__(self, preset: Preset, device: torch.device, lap: Lap) -> None:
        self.device, self.lap = device, lap
        self.view = View(preset.features.view, preset.view)
        rng = np.random.default_rng(0)
        self._photos = [rng.integers(0, 256, (*preset.photo, 3), np.uint8) for _ in range(CHUNK)]
        self._encoder = build_encoder(preset.features, LocalPaths(images=Path()), str(device))
        mode: Literal["exact", "fast"] = "exact" if preset.dtype == "float32" else "fast"
        sam = SamPackage(
            random_sam(preset, device, encoder=True),
            mode=mode,
            dtype=preset.dtype,
            device=device,
            compiled=False,  # compiling takes longer than the measurement
        )
        self._package = sam
        self._sam = CellSam(sam, preset.photo, CELLS, lap)
        config = GridConfig(points_per_side=preset.points)
        self._prompter = GridPrompter(self._sam, config=config, mode=mode)

    @property
    def modules(self) -> list[nn.Module]:
        """Everything that holds weights."""
        return [self._encoder.model, self._package.sam]

    def into(self, batch: Batch) -> Batch:
        """`batch` with its cached visual inputs replaced by ones made now, on the device."""
        wanted = batch.visual.cover is not None
        parts = [
            self._chunk(min(CHUNK, len(batch.ids) - first), batch.visual, wanted)
            for first in range(0, len(batch.ids), CHUNK)
        ]
        names = ("patches", "cover", "masks", "valid") if wanted else ("patches",)
        made: dict[str, Any] = {
            name: torch.cat([getattr(visual, name) for visual, _ in parts]) for name in names
        }
        visual = replace(batch.visual, **made)
        return replace(batch, visual=visual, sam=torch.cat([sam for _, sam in parts]))

    def _chunk(self, count: int, like: Visual, superpixels: bool) -> tuple[Visual, Tensor]:
        photos = self._photos[:count]
        patches = torch.from_numpy(self._encoder.encode(photos).patches).to(self.device)
        visual = Visual(patches, like.grid)
        self.lap("vision encoder")
        if not superpixels:
            sam = self._sam.inner.embed(photos)
            self.lap("SAM encoder")
            return visual, sam
        found, embeddings = self._prompter.generate_batch(photos, return_embeddings=True)
        assert embeddings is not None
        cover, masks = self._derived(found, like.grid)
        valid = torch.ones(cover.shape[:2], dtype=torch.bool, device=self.device)
        sam = torch.from_numpy(np.stack(embeddings)).to(self.device)
        self.lap("superpixels")
        return replace(visual, cover=cover, masks=masks, valid=valid), sam

    def _derived(
        self, found: Sequence[Superpixels], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """cover (B,N,P) and masks (B,N,h',w'); all photographs have the same N."""
        covers, packed = zip(*(derive(s, self.view, grid, BUDGET) for s in found), strict=True)
        height, width = sspe_grid(self.view, BUDGET)
        bits = np.unpackbits(np.stack(packed), axis=2, count=height * width)
        masks = torch.from_numpy(bits).view(*bits.shape[:2], height, width)
        return torch.from_numpy(np.stack(covers)).to(self.device), masks.to(self.device)


def _cells(preset: Preset) -> tuple[Tensor, Tensor]:
    """cover (1,N,P) float16 and masks (1,N,h',w') uint8 of the grid's cells."""
    size = sspe_grid(View(preset.features.view, preset.view), BUDGET)
    masks = F.one_hot(cell_map(CELLS, size)).permute(2, 0, 1)[None]
    cover = F.adaptive_avg_pool2d(masks.float(), preset.grid).flatten(2)
    return cover.half(), masks.to(torch.uint8)


def _dialogues(
    preset: Preset, visual: Visual, sam: Tensor, sentences: int, draw: torch.Generator
) -> Batch:
    """Random words around <image>, `sentences` answers per image with [SEG] before their end."""
    images, length = len(sam), preset.prompt + (sentences - 1) * TURN
    ends = torch.arange(sentences) * TURN + preset.prompt
    labels = torch.full((images, length), IGNORE)
    ids = torch.randint(3, preset.vocab, labels.shape, generator=draw)
    for end in ends.tolist():
        labels[:, end - ANSWER : end] = ids[:, end - ANSWER : end]
    bits = -(-preset.photo[0] * preset.photo[1] // 8)
    return Batch(
        visual=visual,
        ids=ids,
        lengths=torch.full((images,), length),
        labels=labels,
        slot=torch.full((images,), SLOT),
        seg_row=torch.arange(images).repeat_interleave(sentences),
        seg_col=(ends - 3).repeat(images),
        sam=sam,
        square=SAMS[preset.sam].image_size,
        sizes=((preset.photo[0], preset.photo[1]),) * images,
        packed=(torch.full((sentences, bits), 15, dtype=torch.uint8),) * images,
        sent_ids=(tuple(range(sentences)),) * images,
    )
