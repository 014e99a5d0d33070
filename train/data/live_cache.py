"""`--live`: rows computed on demand with the encoders in the loop.

The images, their hashes and the recipe are the cache's plan; nothing else is read from it. Rows go
through the same rounding as stored ones, so losses differ from a run on the cache by no more than
float16 rounding of features whose batches were put together differently.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...pipeline.cache.reader import CacheReader
from ...pipeline.cache.row_codec import row_arrays
from ...pipeline.encoders import build_encoder
from ...pipeline.encoders.encoder import Encoder
from ...pipeline.encoders.pair import PairEncoder
from ...pipeline.errors import CacheError
from ...pipeline.masks.encoder_view import derive
from ...pipeline.precompute.source_images import read_verified
from ...pipeline.records import ImageRow, LocalPaths
from ...pipeline.superpixels.generator import SuperpixelSource, build_generator, generate

REMEMBERED = 64  # images; a batch asks for several arrays of each


class LiveReader(CacheReader):
    """A `CacheReader` without shard files: superpixels, features and SAM embedding live.

    cache   folder with plan.json; its shards need not be there
    where   photographs, and the weights the plan names by digest
    device  of SAM and the encoder
    source, encoder  of superpixels and SAM embeddings, of features; None: those of the recipe

    Every reading method raises ImageError if the photograph is not the one that was planned.
    """

    def __init__(
        self,
        cache: Path,
        where: LocalPaths,
        device: str,
        source: SuperpixelSource | None = None,
        encoder: Encoder | PairEncoder | None = None,
    ) -> None:
        super().__init__(cache, verify="off")
        recipe = self.plan.recipe
        self._where, self._lock = where, threading.Lock()
        self._source = source or build_generator(
            recipe.superpixels, where, device, embeddings=recipe.store_sam_embeddings
        )
        self._encoder = encoder or build_encoder(recipe.features, where, device)
        self._made: OrderedDict[int, Mapping[str, NDArray[Any]]] = OrderedDict()
        self._found: dict[int, int] = {}

    def status(self, i: int) -> Literal["ok", "quarantined", "missing"]:
        """As in the cache; what is missing there can be made here."""
        status = super().status(i)
        return "ok" if status == "missing" else status

    @property
    def counts(self) -> Any:
        """Superpixels of row i as `counts[i]`, computed on access."""
        return _Counts(self)

    def count(self, i: int) -> int:
        """Superpixels of row `i`."""
        self._row(i)
        return self._found[i]

    def _n(self, i: int) -> int:
        return self.count(i)

    def _survivors(self, i: int) -> Mapping[str, int]:
        return {}  # nothing is stored, so no manifest counts it

    def _read(self, name: str, i: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        value = self._row(i)[name]
        if out is None:
            return value
        out[...] = value
        return out

    def _row(self, i: int) -> Mapping[str, NDArray[Any]]:
        with self._lock:  # one model, many loader threads
            if i not in self._made:
                row = self._compute(i)
                self._found[i] = len(row.superpixels)
                self._made[i] = row_arrays(self.plan, self.plan.images[i], row)
                if len(self._made) > REMEMBERED:
                    self._made.popitem(last=False)
            return self._made[i]

    def _compute(self, i: int) -> ImageRow:
        plan, image = self.plan, self.plan.images[i]
        if not image.xxh3:
            raise CacheError(
                f"image {image.image_id}: could not be read when the cache was planned"
            )
        pixels = read_verified(self._where.images, image)
        found, embeddings = generate(
            self._source, [pixels], [image.path], embeddings=plan.recipe.store_sam_embeddings
        )
        features = self._encoder.encode([pixels]).stored(0)
        cover, masks = derive(
            found[0], self._encoder.view, self._encoder.grid, plan.recipe.sspe.budget
        )
        return ImageRow(
            image_id=image.image_id,
            superpixels=found[0],
            patches=features.patches,
            cover=cover,
            sspe_masks=masks,
            cls=features.cls,
            layers=features.layers,
            sam=embeddings[0] if embeddings else None,
        )


class _Counts:
    def __init__(self, reader: LiveReader) -> None:
        self._reader = reader

    def __getitem__(self, row: int) -> np.uint16:
        return np.uint16(self._reader.count(row))
