"""`--live`: rows computed on demand with the encoders in the loop.

The images, their hashes and the recipe are the cache's plan; nothing else is read from it. Rows go
through the same rounding as stored ones, so losses differ from a run on the cache by no more than
float16 rounding of features whose batches were put together differently.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.cache.int4 import superpixel_means
from ...pipeline.cache.layers import ORDER, POOLED, SAM
from ...pipeline.cache.layout import PLAN
from ...pipeline.cache.reader import CacheReader
from ...pipeline.cache.row_codec import row_arrays, stored_features, stored_sam
from ...pipeline.cache.row_reader import Status
from ...pipeline.cache.schema import spec_of
from ...pipeline.encoders import build_encoder
from ...pipeline.encoders.encoder import Encoder
from ...pipeline.encoders.pair import PairEncoder
from ...pipeline.errors import CacheError
from ...pipeline.masks.encoder_view import derive
from ...pipeline.precompute.source_images import read_verified
from ...pipeline.records import ImageRow, LocalPaths, Superpixels
from ...pipeline.store import Place
from ...pipeline.superpixels.budget.described import Described
from ...pipeline.superpixels.budget.k_centre import k_centre
from ...pipeline.superpixels.generator import SuperpixelSource, build_generator, generate

REMEMBERED = 64  # images; a batch asks for several arrays of each


class LiveReader:
    """A `RowReader` without shard files: superpixels, features and SAM embedding live.

    cache   folder with plan.json; its shards need not be there
    where   photographs, and the weights the plan names by digest
    device  of SAM and the encoder
    view    key of its plan
    source, encoder  of superpixels and SAM embeddings, of features; None: those of the recipe

    Every reading method raises ImageError if the photograph is not the one that was planned.
    """

    def __init__(
        self,
        cache: Place,
        where: LocalPaths,
        device: str,
        source: SuperpixelSource | None = None,
        encoder: Encoder | PairEncoder | None = None,
        view: str = PLAN,
    ) -> None:
        self._stored = stored = CacheReader(cache, verify="off", view=view)
        self.path, self.plan = stored.path, stored.plan
        self.index_of, self.quarantined = stored.index_of, stored.quarantined
        self.complete, self.counts = stored.complete, stored.counts
        recipe = self.plan.recipe
        self._where, self._lock = where, threading.Lock()
        self._source = source or build_generator(
            recipe.superpixels, where, device, embeddings=recipe.store_sam_embeddings
        )
        self._encoder = encoder or build_encoder(recipe.features, where, device)
        self._made: OrderedDict[int, tuple[ImageRow, dict[str, NDArray[Any]]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def status(self, i: int) -> Status:
        """As in the cache; what is missing there can be made here."""
        status = self._stored.status(i)
        return "ok" if status == "missing" else status

    def count(self, i: int) -> int:
        """Superpixels n of row `i`."""
        return len(self.superpixels(i))

    def most(self, i: int) -> int:
        """The recipe's cap: how many there are is known once the row is computed."""
        return self.plan.k

    def superpixels(self, i: int) -> Superpixels:
        """The superpixels of row `i`."""
        found = self._row(i).superpixels
        assert found is not None
        return found

    def areas(self, i: int) -> NDArray[np.int32]:
        """(n,) pixels of each superpixel."""
        return self.superpixels(i).area

    def cover(self, i: int) -> NDArray[np.float16]:
        """(n,P) share of each patch that each of the n superpixels covers."""
        return self._held(i, "cover")

    def sspe_masks(self, i: int) -> NDArray[np.uint8]:
        """(n,ceil(G/8)) bit-packed masks on the SSPE grid, high bit first."""
        return self._held(i, "sspe_masks")

    def pooled(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(n,C) mean of the patch features under each superpixel, see `CacheReader.pooled`."""
        self.plan.layer(POOLED)
        means = self._made_of(i)[1][POOLED]
        if out is None:
            return means
        out[len(means) :] = 0
        return _into(means, out[: len(means)])

    def features(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(P,C) patch features of row `i` as they would be stored, into `out` if given."""
        return _into(self._row(i).patches, out)

    def order(self, i: int) -> NDArray[np.uint16]:
        """(n,) the superpixels, the first to be kept first: by the plan's prior, or where it has none
        by k-centre, which needs no training.
        """
        return self._ranked(i)["order"]

    def worth(self, i: int) -> NDArray[np.float16]:
        """(n,) worth of each superpixel; all alike where the plan has no prior."""
        return self._ranked(i)["worth"]

    def _ranked(self, i: int) -> dict[str, NDArray[Any]]:
        row, arrays = self._made_of(i)
        return arrays if self.plan.recipe.order is not None else _differing(row)

    def layers(self, i: int) -> NDArray[np.float16]:
        """(L,P,C) extra encoder layers."""
        return self._held(i, "layers")

    def cls(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """(C,) CLS token, into `out` if given."""
        return self._held(i, "cls", out)

    def sam(self, i: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """SAM image embedding of shape `plan.sam`, into `out` if given."""
        self.plan.layer(SAM)
        return _into(self._row(i).sam, out)

    def gather(
        self, rows: Sequence[int], into: Mapping[str, Sequence[Any]], beside: Sequence[str] = ()
    ) -> None:
        """Fill `into` (field -> an array per row); each row is computed once."""
        for at, i in enumerate(rows):
            for field, outs in into.items():
                getattr(self, field)(i, outs[at])

    def _held(self, i: int, name: str, out: NDArray[np.float16] | None = None) -> NDArray[Any]:
        spec_of(self.plan.arrays, name)
        return _into(getattr(self._row(i), name), out)

    def _row(self, i: int) -> ImageRow:
        """Row `i`, features and SAM embedding as a cache of this plan would give them back."""
        return self._made_of(i)[0]

    def _made_of(self, i: int) -> tuple[ImageRow, dict[str, NDArray[Any]]]:
        """Row `i`, and the small arrays that are derived of it."""
        with self._lock:  # one model, many loader threads
            if i not in self._made:
                row = self._compute(i)
                # Refuses what a cache would refuse, and rounds as it does.
                image = self.plan.images[i]
                arrays: dict[str, NDArray[Any]] = {}
                for layer in self.plan.layers:
                    arrays |= row_arrays(self.plan, layer, image, row)
                if not self.plan.thin:
                    patches = stored_features(self.plan, arrays.__getitem__).astype(np.float16)
                    row = replace(row, patches=patches)
                if self.plan.sam is not None:
                    sam = stored_sam(self.plan, arrays.__getitem__).astype(np.float16)
                    row = replace(row, sam=sam)
                self._made[i] = row, {n: arrays[n] for n in (POOLED, ORDER, "worth") if n in arrays}
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


def _differing(row: ImageRow) -> dict[str, NDArray[Any]]:
    """Order and worth without a prior."""
    assert row.superpixels is not None and row.cover is not None and row.patches is not None
    means, alike = superpixel_means(row.cover, row.patches), np.ones(len(row.cover), np.float16)
    order = k_centre(Described(means, row.superpixels.area, alike))
    return {"order": order.astype(np.uint16), "worth": alike}


def _into(
    value: NDArray[np.float16] | None, out: NDArray[np.float16] | None
) -> NDArray[np.float16]:
    assert value is not None
    if out is None:
        return value
    out[...] = value
    return out
