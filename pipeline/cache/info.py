"""`svp cache info`: content and progress of a cache, from its plan and records alone."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..display import Report, counted, show
from ..store import Place, Store, open_store
from .index import GOOD, is_complete, load_rows
from .manifest import missing_shards, read_committed
from .places import rehearsed
from .plan import Plan, all_plans
from .schema import ArraySpec

LISTED = 20  # quarantined images named one by one


@dataclass(frozen=True)
class InfoReport(Report):
    """Identity and state of a cache.

    arrays       name -> shape of one image's row, dtype, codecs and meaning, as text
    quarantined  reason -> images; `bad` names the first of them with their detail
    rehearsal    made with stand-ins for the weights, whatever names they have in the recipe
    plans        each plan of the cache with its layers, as text
    """

    cache_id: str
    split: str
    recipe_digest: str
    recipe: dict[str, Any]
    digests: dict[str, str]
    arrays: dict[str, str]
    images: int
    good: int
    shards: int
    missing_shards: int
    complete: bool
    superpixels: int
    fallback: int
    quarantined: dict[str, int]
    bad: tuple[str, ...]
    rehearsal: bool
    plans: tuple[str, ...]

    def lines(self) -> list[str]:
        pixels, features = self.recipe["superpixels"], self.recipe["features"]
        state = "complete" if self.complete else f"{counted(self.missing_shards, 'shard')} to do"
        mean = self.superpixels / self.good if self.good else 0.0
        counts = (
            f"{self.good:,} of {counted(self.images, 'image')} in {counted(self.shards, 'shard')}"
        )
        sam = f"{pixels['source']} {pixels['model']} ({pixels['weights']})"
        encoder = f"{features['encoder']} ({features['weights']}) at {features['size']} px"
        stored = features["stored"] + (" of each superpixel alone" * (features["stored"] == "mean"))
        lines = [
            f"cache {self.cache_id}",
            f"split {show(self.split) or '(none)'}, recipe {self.recipe_digest}, {state}",
            f"{counts}, {mean:.1f} superpixels each, {self.fallback} of one full-image superpixel",
            f"superpixels: {sam}, preset {pixels['preset']}, {pixels['mode']} {pixels['dtype']}",
            f"features: {encoder}, view {features['view']}, stored as {stored}",
        ]
        if self.rehearsal:
            lines.insert(1, "made in a rehearsal, with stand-ins for the weights: no real result")
        lines += [f"plan {show(plan, 400)}" for plan in self.plans]
        lines += [f"array {name}: {text}" for name, text in self.arrays.items()]
        lines += [f"source {show(name)}: sha256 {value}" for name, value in self.digests.items()]
        lines += [f"quarantined: {n} x {why}" for why, n in sorted(self.quarantined.items())]
        return lines + [f"  {line}" for line in self.bad]


def info(cache: Place) -> InfoReport:
    """Read the plan and the records of `cache`. Raises MissingError, CacheError."""
    store = open_store(cache)
    plan = Plan.load(store)
    committed = read_committed(store, plan)
    rows = load_rows(store, plan, committed)
    missing = missing_shards(store, plan, committed)
    named = sorted(rows.bad.items())[:LISTED]
    return InfoReport(
        cache_id=plan.id,
        split=plan.split,
        recipe_digest=plan.recipe.digest(),
        recipe=plan.recipe.model_dump(mode="json"),
        digests=dict(plan.digests),
        arrays={spec.name: _describe(spec) for spec in plan.arrays},
        images=len(plan.images),
        good=int((rows.status == GOOD).sum()),
        shards=plan.num_shards,
        missing_shards=len(missing),
        complete=rows.complete,
        superpixels=int(rows.k.sum()),
        fallback=len(rows.fallback),
        quarantined=dict(Counter(reason for reason, _ in rows.bad.values())),
        bad=tuple(f"{show(plan.images[i].path)}: {why}: {show(text)}" for i, (why, text) in named),
        rehearsal=rehearsed(store),
        plans=tuple(_layers_of(store)),
    )


def _layers_of(cache: Store) -> Iterator[str]:
    for view, plan in all_plans(cache).items():
        state = "" if is_complete(cache, plan) else " (not complete)"
        layers = ", ".join(layer.folder for layer in plan.layers)
        yield f"{view} {plan.id[:12]}: {layers}{state}"


def _describe(spec: ArraySpec) -> str:
    shape = "x".join(str(side) for side in spec.row)
    return f"{shape} {spec.dtype}, {'+'.join(spec.codecs)}: {spec.meaning}"
