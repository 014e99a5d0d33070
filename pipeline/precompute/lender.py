"""Rows that another cache has: the same photograph under the same settings is not computed again.

Data sets share photographs (RefCOCO and RefCOCO+ are of the same 20,000), so their caches share
rows where their image lists differ. A photograph is known by the content of its file.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cache.image_list import PlanImage
from ..cache.layers import (
    CLS,
    COVER,
    FEATURES,
    KINDS,
    LAYERS,
    ORDER,
    POOLED,
    SAM,
    SUPERPIXELS,
    Layer,
)
from ..cache.made_by import same_code, shared_kinds
from ..cache.plan import Plan, all_plans
from ..cache.reader import CacheReader
from ..errors import CacheError, SvpError
from ..fetch.sam_specs import USUAL_SAM
from ..recipe import in_float16
from ..store import Place

FIELDS = {SUPERPIXELS: "superpixels", FEATURES: "patches", LAYERS: "layers", CLS: "cls", SAM: "sam"}


@dataclass(frozen=True)
class Lender:
    """A plan of another cache, and the kinds of its layers that are made as ours; picklable."""

    cache: Place
    view: str
    kinds: frozenset[str]

    def lend(self, image: PlanImage, kinds: Collection[str]) -> dict[str, Any]:
        """Values of `records.ImageRow` by field for an image, of those `kinds` that are there."""
        found: dict[str, Any] = {}
        with suppress(SvpError):  # gone, or no cache any more: computed here
            row = self._row(image)
            for kind in self.kinds.intersection(kinds) if row is not None else ():
                read = getattr(self._reader, "features" if kind == FEATURES else FIELDS[kind])
                with suppress(CacheError):  # damaged there: computed here
                    found[FIELDS[kind]] = read(row)
        return found

    @cached_property
    def _reader(self) -> CacheReader:
        return CacheReader(self.cache, "always", self.view)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self._reader.plan.images.xxh3, kind="stable")

    def _row(self, image: PlanImage) -> int | None:
        """The row of a good image with this very file."""
        if not image.xxh3:
            return None
        hashes, wanted = self._reader.plan.images.xxh3, np.uint64(int(image.xxh3, 16))
        first = int(np.searchsorted(hashes, wanted, sorter=self._order))
        for at in self._order[first:]:
            if hashes[at] != wanted:
                return None
            other = self._reader.plan.images[int(at)]
            same = (other.bytes, other.height, other.width) == (
                image.bytes, image.height, image.width,
            )  # fmt: skip
            if same and self._reader.status(int(at)) == "ok":
                return int(at)
        return None

    def __getstate__(self) -> dict[str, object]:
        return {name: self.__dict__[name] for name in ("cache", "view", "kinds")}


def values_of(plan: Plan, kinds: Collection[str]) -> frozenset[str]:
    """Kinds of the values that rows of layers of `kinds` are made of."""
    found = {*kinds}
    if POOLED in found or (FEATURES in found and plan.mean_int4):
        found |= {COVER, FEATURES}
    if POOLED in found and plan.thin and plan.blocks:
        found |= {LAYERS}
    return frozenset(found - {POOLED})


def lenders(
    plan: Plan, lacking: Collection[Layer], others: Iterable[Path], own: Place | None = None
) -> tuple[Lender, ...]:
    """Plans of the caches `others` with layers made as those of `plan` that are `lacking`.

    own  the cache itself, which lends what it has in float16 to layers that are made of it

    Only rows that the same code made are lent by others. In fast mode SAM's bits depend on the images that it
    saw side by side, masks of a folder or a plug-in on the name of the photograph, and what
    is stored in fewer bits is not read as it was computed: these are computed. What is to be stored
    so is taken from a cache that has it in float16.
    """
    pixels = plan.recipe.superpixels
    unlent = {COVER, POOLED, ORDER}
    unlent |= {SUPERPIXELS, SAM} if pixels.mode == "fast" else set()
    unlent |= {SUPERPIXELS} if pixels.source not in (*USUAL_SAM, "slic") else set()
    kinds = shared_kinds(plan.recipe, KINDS) - unlent
    named = values_of(plan, {layer.kind for layer in lacking}) & kinds
    layers = replace(plan, recipe=in_float16(plan.recipe)).layers
    wanted = {layer.recipe_id: layer.kind for layer in layers if layer.kind in named}
    found: list[Lender] = []
    for cache in (*others, *([own] if own else [])):
        try:
            plans = all_plans(cache)
        except SvpError:  # no cache that can be read
            continue
        for view, other in plans.items():
            lent = {
                wanted[layer.recipe_id]
                for layer in other.layers
                if layer.recipe_id in wanted
                and (layer not in lacking if cache == own else same_code(cache, layer))
            }
            if lent:
                found.append(Lender(cache, view, frozenset(lent)))
    return tuple(found)
