"""Caches of the rows: named by what decides them, so that rows share what they can."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...pipeline.executors import ExecutorOptions
from ...pipeline.run.launch import Request, launch, open_request
from ...pipeline.run.planning import sized_plan
from ...pipeline.run.precompute import RunOptions
from ...pipeline.run.settings import Flags, resolve
from ...pipeline.store.layout import COMPLETE
from .ask import Ask, Data
from .spent import spending, spent
from .tables import Row

FLAGS = Flags(store_sam_embeddings=True)  # the mask decoder reads them


Key = tuple[tuple[str, ...], str, str]  # changes of the precompute recipe, data set, split


@dataclass
class Caches:
    """The caches of one table; each is looked up once and made when it is first needed."""

    ask: Ask
    data: Data
    _made: dict[Key, Path] = field(default_factory=dict)
    _paths: dict[Key, Path] = field(default_factory=dict)

    def path(self, row: Row, dataset: str, split: str) -> Path:
        """Where the cache of a split lies; it need not be there. Raises as `launch`.

        The name carries the digest of recipe, library versions and annotation files.
        """
        key = (row.cache, dataset, split)
        if key not in self._paths:
            self._paths[key] = self._name(row, dataset, split)
        return self._paths[key]

    def _name(self, row: Row, dataset: str, split: str) -> Path:
        request = self._request(row, dataset, split)
        source = open_request(request).source
        recipe, _ = resolve(request.size, None, request.flags, request.overrides, source.image_root)
        frame = sized_plan(recipe, source.split or "", source.sha256)
        return self.ask.caches / f"{self.ask.size}-{split}-{frame.id[:12]}"

    def get(self, row: Row, dataset: str, split: str) -> Path:
        """The cache of a split, made or finished. Raises what `launch` raises."""
        key = (row.cache, dataset, split)
        if key not in self._made:
            self._made[key] = self._make(row, dataset, split)
        return self._made[key]

    def of(self, row: Row) -> set[Path]:
        """The caches a row reads, made or not. Raises as `path`."""
        splits = [(column.dataset, column.split) for column in self.data.columns]
        return {self.path(row, *asked) for asked in [(self.data.dataset, "train"), *splits]}

    @staticmethod
    def seconds(caches: set[Path]) -> float:
        """What making these caches took."""
        return sum(spent(_note(path)) for path in caches)

    def _make(self, row: Row, dataset: str, split: str) -> Path:
        out = self.path(row, dataset, split)
        request = replace(self._request(row, dataset, split), out=out)
        opened = open_request(request)
        if (out / COMPLETE).exists():
            launch(request, opened)  # refuses images that are not those of the cache
            return out
        self.ask.say(f"cache {out.name} of {split}: {', '.join(row.cache) or 'as in the recipe'}")
        with spending(_note(out)):
            report = launch(request, opened)
        self.ask.say(report.lines()[1])
        return out

    def _request(self, row: Row, dataset: str, split: str) -> Request:
        asked = self.ask.workers
        workers = ExecutorOptions(workers=os.cpu_count() or 1 if asked is None else asked)
        return Request(
            dataset=dataset,
            split=split,
            out=None,
            root=self.data.root,
            size=self.ask.size,
            flags=FLAGS,
            overrides=row.cache,
            run=RunOptions(executor_options=workers, hint=f"svp reproduce {self.ask.table}"),
            quiet=True,
        )


def _note(cache: Path) -> Path:
    return cache.with_name(f"{cache.name}.spent.json")
