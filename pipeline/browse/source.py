"""Data of the page, read once from the cache: plan, sampled rows and statistics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..cache.plan import Plan
from ..cache.reader import CacheReader, spread_over
from ..cache.stats import StatsReport, stats
from ..errors import ConfigError
from ..records import Quarantined, Superpixels
from ..store import Place

MEASURED = 400  # images behind coverage, overlap and levels: enough for a page, quick to decode


@dataclass(frozen=True, slots=True)
class CacheView:
    """A cache as the page sees it. Rows are places in `plan.images`.

    good  rows that hold superpixels, in order
    bad   row -> why it is in quarantine
    """

    plan: Plan
    good: tuple[int, ...]
    bad: dict[int, Quarantined]
    stats: StatsReport
    superpixels: Callable[[int], Superpixels]

    def choose(self, limit: int, ids: Sequence[int] | None) -> list[int]:
        """Rows of the wanted image ids, or `limit` good rows spread evenly over the cache."""
        if ids is None:
            return spread_over(self.good, limit)
        rows = {self.plan.images[row].image_id: row for row in self.good}
        absent = [image_id for image_id in ids if image_id not in rows]
        if absent:
            raise ConfigError(f"image {absent[0]}: not in this cache, not done yet or quarantined")
        return [rows[image_id] for image_id in dict.fromkeys(ids)]


def open_view(cache: Place) -> CacheView:
    """The cache `cache`; MissingError or CacheError if it is none or damaged."""
    reader = CacheReader(cache)
    rows = reader.index_of
    return CacheView(
        plan=reader.plan,
        good=tuple(row for row in range(len(reader)) if reader.status(row) == "ok"),
        bad={rows[item.image_id]: item for item in reader.quarantined},
        stats=stats(cache, MEASURED),
        superpixels=reader.superpixels,
    )
