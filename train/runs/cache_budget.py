"""`svp cache stats --budget`: what a budget of visual tokens allows, by the rule that selects them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...pipeline.cache.plan import chosen_view
from ...pipeline.cache.reader import CacheReader, spread_over
from ...pipeline.cache.stored_means import stored_means
from ...pipeline.cache.worth import Prior, traits
from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.masks import rle
from ...pipeline.records import Rle
from ...pipeline.store import Place
from ...pipeline.superpixels.budget import Described
from ..evaluation.budget_curves import BudgetReport, Scene, budgets_of, curves
from ..evaluation.fit_prior import fit_prior, labels
from ..evaluation.protocols import Example, gather
from ..evaluation.upper_bounds import Atoms
from ..options import DataRequest
from .inputs import source_of
from .newest_cache import data_of, require_images


@dataclass(frozen=True, kw_only=True)
class BudgetRequest:
    """Options of `svp cache stats --budget`; data: None of what the cache was made from.

    sample  images that are looked at, at most
    """

    cache: Place
    data: DataRequest = field(default_factory=DataRequest)
    sample: int = 512


@dataclass(frozen=True)
class Annotated:
    """The annotated images of a cache: rows, scenes without worth, and what a prior reads of them."""

    rows: list[int]
    scenes: list[Scene]
    means: list[NDArray[np.float16]]
    traits: list[NDArray[np.float64]]

    def fit(self, chosen: slice, *, shape_alone: bool = False) -> Prior:
        """The prior of some of the images; `shape_alone`: one that reads no features."""
        wanted = [labels(scene) for scene in self.scenes[chosen]]
        means = [row[:, : 0 if shape_alone else None] for row in self.means[chosen]]
        return fit_prior(means, self.traits[chosen], wanted)


def budget_stats(request: BudgetRequest) -> BudgetReport:
    """The curves. Raises MissingError, CacheError, ConfigError, DataError."""
    reader = CacheReader(request.cache, view=chosen_view(request.cache))
    seen = annotated(reader, request.data, request.sample)
    half, fitted = slice(1, None, 2), "prior fitted on every other image, figures of the rest"
    prior, shapes = seen.fit(half), seen.fit(half, shape_alone=True)
    scenes = []
    for at in range(0, len(seen.scenes), 2):
        found = reader.superpixels(seen.rows[at])
        worth = prior.worth(seen.means[at], found)
        scene = seen.scenes[at]
        known = replace(scene.found, worth=worth, shape=shapes.worth_of_shapes(found))
        scenes.append(replace(scene, found=known))
    natural = float(np.mean([len(scene.found) for scene in scenes]))
    budgets = budgets_of(natural)
    if not budgets:
        raise ConfigError(
            f"{show(str(request.cache), 300)}: {natural:.1f} superpixels per image: there is no "
            "smaller budget to compare"
        )
    sentences = sum(int(scene.said.sum()) for scene in scenes)
    full = sum(scene.best(scene.member) for scene in scenes) / sentences
    rows = curves(scenes, budgets)
    return BudgetReport(
        reader.plan.id, len(scenes), sentences, natural, full, budgets, rows, fitted
    )


def annotated(reader: CacheReader, asked: DataRequest, sample: int) -> Annotated:
    """At most `sample` images with sentences, spread over the split that the cache is of."""
    require_images(asked)
    source = source_of(data_of([reader.path], asked), None, reader.plan.split)
    if not source.sentences:
        raise ConfigError(
            f"{show(source.name)}: photographs without expressions: a budget is compared by what they "
            "name: JSONL, REFER or parquet (docs/data.md)"
        )
    images = sorted({row.image_id for row in source.sentences} & reader.index_of.keys())
    kept = frozenset(spread_over(images, sample))
    source = replace(source, sentences=tuple(s for s in source.sentences if s.image_id in kept))
    found = Annotated([], [], [], [])
    for item in gather(source, [reader], max_failures=asked.max_failures).items:
        row = item.entry.row
        superpixels, means = reader.superpixels(row), stored_means(reader, row)
        unknown = Described(means, superpixels.area, np.zeros(len(superpixels), np.float16))
        atoms = Atoms(superpixels.masks())
        found.rows.append(row)
        found.scenes.append(Scene.of(unknown, atoms, targets(item)))
        found.means.append(means)
        found.traits.append(traits(superpixels))
    return found


Mask = NDArray[np.bool_]


def targets(item: Example) -> Sequence[tuple[Mask, Mask | None, int]]:
    """The targets of an image, each once: pixels, those that do not count, number of sentences."""
    count: dict[tuple[Rle, Rle | None], int] = {}
    for said in item.expressions:
        count[said.mask, said.ignore] = count.get((said.mask, said.ignore), 0) + 1
    return [(*_pixels(mask, ignore), n) for (mask, ignore), n in count.items()]


def _pixels(mask: Rle, ignore: Rle | None) -> tuple[Mask, Mask | None]:
    found = rle.decode(mask).view(np.bool_)
    if ignore is None:
        return found, None
    region = rle.decode(ignore).view(np.bool_)
    return found & ~region, region
