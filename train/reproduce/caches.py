"""Caches of the trials, named by digest so that trials share them.

The name needs neither data nor weights, so a plan made anywhere names the folders that the run
will make, and what was made by the plan's commands is found again.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...pipeline.cache.index import is_complete
from ...pipeline.display import show
from ...pipeline.errors import PlanMismatchError
from ...pipeline.precompute.launch import Request, launch, open_request
from ...pipeline.precompute.options import resolve
from ..runs.cache_order import OrderRequest, order_cache
from .experiment import Overrides, Row
from .request import Data, ReproduceRequest
from .trial_folder import elapsed, timed

log = logging.getLogger(__name__)

Key = tuple[Overrides, str, str]  # changes of the precompute recipe, data set, split


@dataclass
class Caches:
    """The caches of one table; each is looked up once and made when it is first needed."""

    request: ReproduceRequest
    data: Data
    _made: dict[Key, Path] = field(default_factory=dict)
    _ordered: set[Key] = field(default_factory=set)
    _paths: dict[Key, Path] = field(default_factory=dict)

    def path(self, row: Row, dataset: str, split: str) -> Path:
        """Path of the cache of a split, whether or not it exists. Raises ConfigError.

        The name carries a digest of the recipe without its weights, the data set and the split.
        """
        key = (row.cache, dataset, split)
        if key not in self._paths:
            name = (
                f"{self.request.size}-{split}-{recipe_key(self.request, row.cache, dataset, split)}"
            )
            self._paths[key] = self.request.caches / name
        return self._paths[key]

    def get(self, row: Row, dataset: str, split: str) -> Path:
        """The cache of a split, made or finished, with an order for a row at a budget.

        Raises what `launch` and `order_cache` raise.
        """
        key = (row.cache, dataset, split)
        if key not in self._made:
            self._made[key] = self._make(row, dataset, split)
        if row.budget and key not in self._ordered:
            train = split == "train"
            prior = None if train else self.get(row, self.data.dataset, "train")
            log.info(order_cache(OrderRequest(cache=self._made[key], prior=prior)).lines()[0])
            self._ordered.add(key)
        return self._made[key]

    def of(self, row: Row) -> set[Path]:
        """The caches a row reads, made or not. Raises as `path`."""
        return {self.path(row, *asked) for asked in splits_of(row, self.data)}

    @staticmethod
    def seconds(caches: set[Path]) -> float:
        """Time that making these caches took."""
        return sum(elapsed(_note(path)) for path in caches)

    def precompute_request(self, row: Row, dataset: str, split: str) -> Request:
        """Request of `svp precompute` that makes the cache."""
        request = self.request
        return Request(
            dataset=dataset,
            split=split,
            out=self.path(row, dataset, split),
            root=self.data.root,
            size=request.size,
            flags=request.flags,
            overrides=row.cache,
            run=request.run_options,
            quiet=True,
        )

    def _make(self, row: Row, dataset: str, split: str) -> Path:
        precompute_request = self.precompute_request(row, dataset, split)
        assert isinstance(precompute_request.out, Path)
        out, opened = precompute_request.out, open_request(precompute_request)
        try:
            if is_complete(out):
                launch(precompute_request, opened)  # refuses images that are not those of the cache
                return out
            what = ", ".join(map(str, row.cache)) or "as in the recipe"
            log.info(f"cache {out.name} of {split}: {what}")
            with timed(_note(out)):
                report = launch(precompute_request, opened)
        except PlanMismatchError as error:
            where = show(str(self.request.caches), 300)
            raise PlanMismatchError(
                f"{error}; the caches in {where} are of other data, weights or library versions: "
                "give another folder with --caches"
            ) from None
        log.info(report.lines()[1])
        return out


def splits_of(row: Row, data: Data) -> list[tuple[str, str]]:
    """(data set, split) of the caches a row reads, the one it trains on first."""
    held_out = [(column.dataset, column.split) for column in data.columns]
    return held_out if row.untrained else [(data.dataset, "train"), *held_out]


def recipe_key(request: ReproduceRequest, changes: Overrides, dataset: str, split: str) -> str:
    """12 hex digits of what decides a cache beside weights, library versions and the data's bytes."""
    # Random weights stand in for missing files.
    flags = replace(request.flags, sam_weights="random", encoder_weights="random")
    recipe, _ = resolve(request.size, None, flags, changes, Path())
    text = json.dumps([recipe.canonical(), dataset, split])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _note(cache: Path) -> Path:
    return cache.with_name(f"{cache.name}.spent.json")
