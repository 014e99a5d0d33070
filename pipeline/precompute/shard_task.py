"""Shard task: compute and commit the rows of one shard.

Reading -> superpixels -> derived arrays -> patch features -> store. A shard is a pure function of
(plan, shard number): batches never cross a shard, a bad image leaves its place in the batch empty
instead of moving the others, and encoder batches are padded to one size, so the same kernels run
on the same operands however the work was interrupted. Memory is one shard's rows, never more.
"""

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..cache.layout import PLAN
from ..cache.plan import Plan, PlanImage
from ..display import shorten
from ..errors import ImageError
from ..executors.base import Job, Reason
from ..executors.worker import limit_threads, report_progress
from ..plugins import plugin_files, plugins
from ..process import peak_rss
from ..records import ImageRow, LocalPaths, Quarantined, Superpixels
from .source_images import Pixels, read_verified

if TYPE_CHECKING:
    from ..encoders.encoder import Encoder
    from ..superpixels.generator import SuperpixelSource

Entry = ImageRow | Quarantined

POISON: dict[Reason, str] = {
    "worker_died": "its worker process dies whenever it works on this image",
    "worker_timeout": "no result within the time limit whenever a worker has this image",
    "worker_error": "an unexpected error is raised whenever a worker has this image: see logs",
}


@dataclass(frozen=True)
class ShardTask:
    """Picklable task of a worker.

    device   its name inside the worker
    plugins  the run's plug-in files: a worker of a cluster that was joined has another environment
    """

    cache: str
    where: LocalPaths
    device: str = "cpu"
    threads: int = 1
    plugins: tuple[str, ...] = field(default_factory=plugin_files)

    def open(self) -> Callable[[Job], dict[str, object]]:
        """Load the plan and the models. Raises CacheError, WeightsError, MissingError."""
        import torch  # noqa: F401  first, so that its threads can be limited before it is used

        from ..encoders import build_encoder
        from ..superpixels.generator import build_generator

        limit_threads(self.threads)
        with plugins(self.plugins):
            recipe = self._plan.recipe
            source = build_generator(
                recipe.superpixels, self.where, self.device, embeddings=recipe.store_sam_embeddings
            )
            encoder = build_encoder(recipe.features, self.where, self.device)
        return Stage(self._plan, Path(self.cache), self.where.images, source, encoder).do

    def rows(self, shard: int) -> int:
        """Number of images in the shard."""
        return len(self._plan.shard(shard))

    @cached_property
    def _plan(self) -> Plan:
        return Plan.load(Path(self.cache) / PLAN)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_plan"}


class Stage:
    """A worker's models and what it does with them; `root` is the image folder."""

    def __init__(
        self, plan: Plan, cache: Path, root: Path, source: "SuperpixelSource", encoder: "Encoder"
    ) -> None:
        self.plan, self.cache, self.root = plan, cache, root
        self.source, self.encoder = source, encoder

    def do(self, job: Job) -> dict[str, object]:
        """One job: a shard to commit, or a probe whose result is dropped."""
        images = self.plan.shard(job.shard)
        report = Report()
        entries: list[Entry] = []
        first, last = job.rows or (0, len(images))
        poison = dict(job.poison)
        for start in range(0, len(images), self.plan.recipe.batch):
            rows = range(start, min(start + self.plan.recipe.batch, len(images)))
            wanted = [row for row in rows if first <= row < last]
            if wanted:
                batch = {r: images[r] for r in wanted if r not in poison}
                done = self._batch(batch, report)
                done |= {r: _poisoned(images[r], poison[r]) for r in wanted if r in poison}
                entries += [done[row] for row in wanted]
                if job.rows is None:
                    report_progress(shard=job.shard, **_told(list(done.values()), report))
        if job.rows is None:
            self._write(job.shard, entries, report)
        report.count(entries)
        return report.as_dict()

    def _batch(self, images: dict[int, PlanImage], report: "Report") -> dict[int, Entry]:
        """One batch's entries by row; `images` are those of its rows that are to be touched."""
        entries: dict[int, Entry] = {}
        pixels: dict[int, Pixels] = {}
        with report.timed("read"):
            for row, image in images.items():
                try:
                    pixels[row] = read_verified(self.root, image)
                except ImageError as error:
                    entries[row] = self._refuse(image, error)
        if pixels:
            self._compute(images, pixels, entries, report)
        return entries

    def _compute(
        self,
        images: dict[int, PlanImage],
        pixels: dict[int, Pixels],
        entries: dict[int, Entry],
        report: "Report",
    ) -> None:
        with report.timed("superpixels"):
            found = self._superpixels(images, pixels, entries)
        with report.timed("features"):
            rows = list(found)
            features = self.encoder.encode(self._padded([pixels[row] for row in rows]))
        with report.timed("derive"):
            for index, row in enumerate(rows):
                superpixels, sam = found[row]
                try:
                    stored = features.stored(index)
                    cover, sspe_masks = self._derive(superpixels)
                except ImageError as error:
                    entries[row] = self._refuse(images[row], error)
                    continue
                entries[row] = ImageRow(
                    image_id=images[row].image_id,
                    superpixels=superpixels,
                    patches=stored.patches,
                    cover=cover,
                    sspe_masks=sspe_masks,
                    cls=stored.cls,
                    layers=stored.layers,
                    sam=sam,
                )

    def _superpixels(
        self,
        images: dict[int, PlanImage],
        pixels: dict[int, Pixels],
        entries: dict[int, Entry],
    ) -> dict[int, tuple[Superpixels, NDArray[np.float16] | None]]:
        """Superpixels and SAM embedding by row; an image the source refuses is quarantined."""
        try:
            names = [images[row].path for row in pixels]
            return dict(zip(pixels, self._generate(list(pixels.values()), names), strict=True))
        except ImageError as error:
            if len(pixels) == 1:
                (row,) = pixels
                entries[row] = self._refuse(images[row], error)
                return {}
        found: dict[int, tuple[Superpixels, NDArray[np.float16] | None]] = {}
        for row, image in pixels.items():  # one of them is bad: find out which
            found |= self._superpixels(images, {row: image}, entries)
        return found

    def _generate(
        self, pixels: list[Pixels], names: list[str]
    ) -> Iterator[tuple[Superpixels, NDArray[np.float16] | None]]:
        store = self.plan.recipe.store_sam_embeddings
        from ..superpixels.generator import generate

        found, embeddings = generate(self.source, pixels, names, embeddings=store)
        return zip(found, embeddings if embeddings else [None] * len(found), strict=True)

    def _padded(self, pixels: Sequence[Pixels]) -> list[Pixels]:
        missing = self.plan.recipe.batch - len(pixels)
        return [*pixels, *([pixels[-1]] * missing)] if pixels else []

    def _derive(self, found: Superpixels) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        from ..masks.encoder_view import derive

        budget = self.plan.recipe.sspe.budget
        return derive(found, self.encoder.view, self.encoder.grid, budget)

    def _refuse(self, image: PlanImage, error: ImageError) -> Quarantined:
        return quarantine(image, error, self.root)

    def _write(self, shard: int, entries: list[Entry], report: "Report") -> None:
        from ..cache.writer import write_shard

        info = {"host": platform.node(), "pid": os.getpid(), "seconds": report.rounded()}
        with report.timed("write"):
            write_shard(self.cache, self.plan, shard, entries, info)


@dataclass
class Report:
    """Result of a job, a few hundred bytes."""

    seconds: dict[str, float] = field(default_factory=dict)
    quarantined: Counter[str] = field(default_factory=Counter)
    images: int = 0
    superpixels: int = 0
    fallbacks: int = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to `stage`."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def count(self, entries: Sequence[Entry]) -> None:
        """Take note of what became of the images."""
        self.images += len(entries)
        for entry in entries:
            if isinstance(entry, Quarantined):
                self.quarantined[entry.reason] += 1
            else:
                self.superpixels += len(entry.superpixels)
                self.fallbacks += entry.superpixels.fallback

    def rounded(self) -> dict[str, float]:
        """Seconds by stage, to a tenth of a millisecond."""
        return {name: round(value, 4) for name, value in self.seconds.items()}

    def as_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "images": self.images,
            "quarantined": dict(self.quarantined),
            "superpixels": self.superpixels,
            "fallbacks": self.fallbacks,
            "seconds": self.rounded(),
            "peak_rss": peak_rss(),
        }


def quarantine(image: PlanImage, error: ImageError, root: Path) -> Quarantined:
    """Quarantine entry of an image. Its text must not depend on local paths."""
    text = str(error)
    _, found, detail = text.partition(f": {error.reason}: ")
    text = detail if found else text
    for folder in (os.path.realpath(root), str(root)):
        text = text.replace(f"{folder.rstrip(os.sep)}{os.sep}", "")
    return Quarantined(image.image_id, error.reason, shorten(text, 500))


def _told(entries: Sequence[Entry], report: Report) -> dict[str, object]:
    """Progress event of a batch: its images, and the seconds of the job so far."""
    bad = Counter(entry.reason for entry in entries if isinstance(entry, Quarantined))
    return {
        "images": len(entries),
        "quarantined": dict(bad),
        "seconds": report.rounded(),
        "peak_rss": peak_rss(),
    }


def _poisoned(image: PlanImage, reason: Reason) -> Quarantined:
    return Quarantined(image.image_id, reason, POISON[reason])
