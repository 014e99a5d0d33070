"""Shard task: compute and commit the rows of one shard.

Reading -> superpixels -> derived arrays -> patch features -> store. A shard is a pure function of
(plan, shard number): batches never cross a shard, a bad image leaves its place in the batch empty
instead of moving the others, and encoder batches are padded to one size, so the same kernels run
on the same operands however the work was interrupted. Memory is one shard's rows, never more.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
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
from ..executors.base import Job, JobReport, Needs, Reason, Work
from ..executors.worker import limit_threads, worker_info
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

    def open(self) -> Work:
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

    @property
    def needs(self) -> Needs:
        """Versions that its workers must have, and their memory by the cost model."""
        from .cost_model import estimate

        memory = estimate(self._plan, 0, device="core" if self.device == "cpu" else "h200").memory
        return Needs(Path(self.cache).name, self._plan.recipe.libraries, memory["host"])

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
        self._seconds: defaultdict[str, float] = defaultdict(
            float
        )  # of the job under way, by stage

    def do(self, job: Job) -> Generator[JobReport, None, JobReport]:
        """One job: a shard to commit, or a probe whose result is dropped."""
        self._seconds.clear()
        images, size = self.plan.shard(job.shard), self.plan.recipe.batch
        first, last = job.rows or (0, len(images))
        poison = dict(job.poison)
        entries: list[Entry] = []

        # Every attempt, and a probe of a part, cuts the shard at the same rows: what is computed
        # side by side does not depend on how often or in which parts it was tried.
        for start in range(0, len(images), size):
            wanted = range(max(start, first), min(start + size, last))
            if not wanted:
                continue
            done = self._batch({row: images[row] for row in wanted if row not in poison})
            for row in poison.keys() & wanted:
                reason = poison[row]
                done[row] = Quarantined(images[row].image_id, reason, POISON[reason])
            batch = [done[row] for row in wanted]
            entries += batch
            if job.rows is None:
                yield self._report(batch)

        if job.rows is None:
            from ..cache.writer import write_shard

            seconds = self._report(entries).seconds
            info = {**worker_info(self.plan.recipe.libraries), "seconds": seconds}
            with self._timed("write"):
                write_shard(self.cache, self.plan, job.shard, entries, info)
        return self._report(entries)

    def _report(self, entries: Sequence[Entry]) -> JobReport:
        made = [entry for entry in entries if isinstance(entry, ImageRow)]
        bad = Counter(entry.reason for entry in entries if isinstance(entry, Quarantined))
        return JobReport(
            images=len(entries),
            quarantined=dict(bad),
            superpixels=sum(len(entry.superpixels) for entry in made),
            fallbacks=sum(bool(entry.superpixels.fallback) for entry in made),
            seconds={stage: round(value, 4) for stage, value in self._seconds.items()},
            peak_rss=peak_rss(),
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to `stage`."""
        began = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - began

    def _batch(self, images: dict[int, PlanImage]) -> dict[int, Entry]:
        """One batch's entries by row; `images` are those of its rows that are to be touched."""
        from ..masks.encoder_view import derive

        entries: dict[int, Entry] = {}
        pixels: dict[int, Pixels] = {}
        with self._timed("read"):
            for row, image in images.items():
                try:
                    pixels[row] = read_verified(self.root, image)
                except ImageError as error:
                    entries[row] = quarantine(image, error, self.root)
        if not pixels:
            return entries

        with self._timed("superpixels"):
            found = self._superpixels(images, pixels, entries)

        # Padded to one size: a batch of another size may run other kernels, with other last bits.
        with self._timed("features"):
            rows = list(found)
            padding = rows[-1:] * (self.plan.recipe.batch - len(rows))
            features = self.encoder.encode([pixels[row] for row in (*rows, *padding)])

        with self._timed("derive"):
            budget = self.plan.recipe.sspe.budget
            for index, (row, (superpixels, sam)) in enumerate(found.items()):
                try:
                    stored = features.stored(index)
                    cover, sspe_masks = derive(
                        superpixels, self.encoder.view, self.encoder.grid, budget
                    )
                except ImageError as error:
                    entries[row] = quarantine(images[row], error, self.root)
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
        return entries

    def _superpixels(
        self,
        images: dict[int, PlanImage],
        pixels: dict[int, Pixels],
        entries: dict[int, Entry],
    ) -> dict[int, tuple[Superpixels, NDArray[np.float16] | None]]:
        """Superpixels and SAM embedding by row; an image the source refuses is quarantined."""
        from ..superpixels.generator import generate

        names = [images[row].path for row in pixels]
        store = self.plan.recipe.store_sam_embeddings
        try:
            found, embeddings = generate(self.source, [*pixels.values()], names, embeddings=store)
            sam = embeddings if embeddings else [None] * len(found)
            return dict(zip(pixels, zip(found, sam, strict=True), strict=True))
        except ImageError as error:
            if len(pixels) == 1:
                (row,) = pixels
                entries[row] = quarantine(images[row], error, self.root)
                return {}
        # One of them is bad: each alone tells which.
        parts = [self._superpixels(images, {row: image}, entries) for row, image in pixels.items()]
        return {row: pair for part in parts for row, pair in part.items()}


def quarantine(image: PlanImage, error: ImageError, root: Path) -> Quarantined:
    """Quarantine entry of an image. Its text must not depend on local paths."""
    text = str(error)
    _, found, detail = text.partition(f": {error.reason}: ")
    text = detail if found else text
    for folder in (os.path.realpath(root), str(root)):
        text = text.replace(f"{folder.rstrip(os.sep)}{os.sep}", "")
    return Quarantined(image.image_id, error.reason, shorten(text, 500))
