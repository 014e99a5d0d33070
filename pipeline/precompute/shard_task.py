"""Shard task: compute and commit what the layers of one shard lack.

Reading -> superpixels -> patch features -> derived arrays -> store; a step is left out where no
layer waits for it. The next batch is read, and the last one finished, while this one is with the
models: three threads, and a batch with one of them at a time. A layer's shard is a pure function of
(layer, shard number): batches never cross a shard, a bad image leaves its place in the batch empty
instead of moving the others, and encoder batches are padded to one size, so the same kernels run on
the same operands however the work was interrupted. Memory is one shard's rows and the photographs
of two batches, never more.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..cache.layers import COVER, ENCODED, KINDS, SAM, SUPERPIXELS
from ..cache.layout import PLAN, exists, manifest_key
from ..cache.plan import Plan, PlanImage
from ..cache.superpixel_rows import stored_superpixels
from ..datasets.stored_photos import root_name
from ..display import shorten
from ..errors import ImageError
from ..executors.base import Job, JobReport, Needs, Reason, Work
from ..executors.worker import limit_threads, worker_info
from ..plugins import plugin_files, plugins
from ..process import overlapped, peak_rss
from ..records import ImageRow, LocalPaths, Quarantined, Superpixels
from ..store import Store, this_writer
from .lender import FIELDS, Lender, values_of
from .shard_batch import Batch, Entry
from .source_images import Pixels, fetch, read_verified
from .stage_models import Models

POISON: dict[Reason, str] = {
    "worker_died": "its worker process dies whenever it works on this image",
    "worker_timeout": "no result within the time limit whenever a worker has this image",
    "worker_error": "an unexpected error is raised whenever a worker has this image: see logs",
}


@dataclass(frozen=True)
class ShardTask:
    """Picklable task of a worker.

    view     the plan's file in the cache
    kinds    of the layers to make; models of others are not loaded
    lenders  other caches, whose rows are taken where they are the same
    device   its name inside the worker
    plugins  the run's plug-in files: a worker of a cluster that was joined has another environment
    """

    cache: Store
    where: LocalPaths
    device: str = "cpu"
    threads: int = 1
    view: str = PLAN
    kinds: frozenset[str] = frozenset(KINDS)
    lenders: tuple[Lender, ...] = ()
    plugins: tuple[str, ...] = field(default_factory=plugin_files)

    def open(self) -> Work:
        """Load the plan and the models. Raises CacheError, WeightsError, MissingError."""
        import torch  # noqa: F401  first, so that its threads can be limited before it is used

        limit_threads(self.threads)
        with plugins(self.plugins):
            models = Models.load(self._plan.recipe, self.where, self.device, self.kinds)
        images = self.where.images
        return Stage(self._plan, self.cache, images, models, self.kinds, self.lenders).do

    @property
    def needs(self) -> Needs:
        """Versions that its workers must have, and their memory by the cost model."""
        from .cost_model import estimate

        memory = estimate(self._plan, 0, device="core" if self.device == "cpu" else "h200").memory
        return Needs(
            self.cache.where().rsplit("/", 1)[-1], self._plan.recipe.libraries, memory["host"]
        )

    def rows(self, shard: int) -> int:
        """Number of images in the shard."""
        return len(self._plan.shard(shard))

    @cached_property
    def _plan(self) -> Plan:
        return Plan.load(self.cache, self.view)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_plan"}


class Stage:
    """A worker's models and what it does with them; `root` is the image folder."""

    def __init__(
        self,
        plan: Plan,
        cache: Store,
        root: Path,
        models: Models,
        kinds: frozenset[str] = frozenset(KINDS),
        lenders: Sequence[Lender] = (),
    ) -> None:
        self.plan, self.cache, self.root = plan, cache, root
        self.models, self.kinds, self.lenders = models, kinds, lenders
        self._seconds: dict[str, float] = {}  # of the job under way, by stage
        self._began = 0.0
        self._lock = threading.Lock()  # of `_seconds`, to which every stage's thread adds

    def do(self, job: Job) -> Generator[JobReport, None, JobReport]:
        """One job: a shard to commit, or a probe whose result is dropped."""
        self._seconds.clear()
        self._began = time.perf_counter()
        images, size = self.plan.shard(job.shard), self.plan.recipe.batch
        first, last = job.rows or (0, len(images))
        poison = dict(job.poison)
        entries: list[Entry] = []

        # What another attempt, or a run beside this one, has committed stays.
        lacking = [
            layer
            for layer in self.plan.layers
            if layer.kind in self.kinds
            and (
                job.rows is not None
                or not exists(self.cache, manifest_key(layer.folder, job.shard))
            )
        ]
        wanted_kinds = values_of(self.plan, [layer.kind for layer in lacking])
        stored: list[Superpixels | Quarantined] = []
        if COVER in wanted_kinds and SUPERPIXELS not in wanted_kinds:
            stored = stored_superpixels(self.cache, self.plan, job.shard)

        # Every attempt, and a probe of a part, cuts the shard at the same rows: what is computed
        # side by side does not depend on how often or in which parts it was tried.
        batches: list[Batch] = []
        for start in range(0, len(images), size) if lacking else ():
            wanted = range(max(start, first), min(start + size, last))
            if wanted:
                asked = {row: images[row] for row in wanted if row not in poison}
                there = {row: stored[row] for row in wanted} if stored else {}
                batches.append(Batch(wanted, asked, wanted_kinds, there))

        # The models' thread is this one: beside it the next batch is read and the last one finished.
        with (
            closing(overlapped(self._read, batches)) as read,
            closing(overlapped(self._finish, map(self._models, read))) as done,
        ):
            for batch in done:
                for row in poison.keys() & batch.rows:
                    reason = poison[row]
                    bad = Quarantined(images[row].image_id, reason, POISON[reason])
                    batch.entries[row] = bad
                entries += (made := [batch.entries[row] for row in batch.rows])
                batch.entries.clear()
                if job.rows is None:
                    yield self._report(made)

        if job.rows is None and lacking:
            from ..cache.writer import write_shard

            seconds = self._report(entries).seconds
            info = {**worker_info(self.plan.recipe.libraries), "seconds": seconds}
            with self._timed("write"):
                who = this_writer(str(info.get("device", "")))
                write_shard(self.cache, self.plan, job.shard, entries, info, lacking, who=who)
        return self._report(entries)

    def _report(self, entries: Sequence[Entry]) -> JobReport:
        found = [e.superpixels for e in entries if isinstance(e, ImageRow) and e.superpixels]
        bad = Counter(entry.reason for entry in map(_refusal, entries) if entry)
        with self._lock:
            seconds = {stage: round(value, 4) for stage, value in self._seconds.items()}
        return JobReport(
            images=len(entries),
            quarantined=dict(bad),
            superpixels=sum(map(len, found)),
            fallbacks=sum(one.fallback for one in found),
            seconds=seconds,
            elapsed=round(time.perf_counter() - self._began, 4),
            peak_rss=peak_rss(),
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to `stage`."""
        began = time.perf_counter()
        yield
        with self._lock:
            spent = time.perf_counter() - began
            self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    def _read(self, batch: Batch) -> Batch:
        """First stage: what other caches have, and the photographs of what is still to be made."""
        if self.lenders:
            with self._timed("lend"):
                for row, image in batch.images.items():
                    batch.parts[row] = self._lent(image, batch.kinds)
        with self._timed("read"):
            wanted = {row: image for row, image in batch.images.items() if batch.lacks(row)}
            photos = fetch(self.root, wanted)
            for row, image in wanted.items():
                try:
                    batch.pixels[row] = read_verified(self.root, image, photos.pop(row, None))
                except ImageError as error:
                    batch.entries[row] = quarantine(image, error, self.root)
                    del batch.parts[row]
        return batch

    def _models(self, batch: Batch) -> Batch:
        """Second stage: the models' outputs. The photographs are let go."""
        pixels, parts, refused = batch.pixels, batch.parts, batch.refused
        lacks = {row: batch.lacks(row) for row in pixels}
        with self._timed("superpixels"):
            embedder = self.models.embedder
            both = embedder is None and SAM in batch.kinds
            cut = [r for r in pixels if SUPERPIXELS in lacks[r] or (both and SAM in lacks[r])]
            if cut:
                mine = {row: pixels[row] for row in cut}
                self._superpixels(batch.images, mine, both, parts, refused)
            seen = [row for row in pixels if embedder and SAM in lacks[row]]
            if embedder and seen:
                for row, sam in zip(seen, embedder.embed([pixels[r] for r in seen]), strict=True):
                    parts[row]["sam"] = sam

        # Padded to one size: a batch of another size may run other kernels, with other last bits.
        rows = [row for row in pixels if lacks[row] & ENCODED]
        if self.models.encoder and rows:
            with self._timed("features"):
                padding = rows[-1:] * (self.plan.recipe.batch - len(rows))
                features = self.models.encoder.encode([pixels[row] for row in (*rows, *padding)])
            for index, row in enumerate(rows):
                for kind in ENCODED & lacks[row]:
                    try:
                        parts[row][FIELDS[kind]] = features.rounded(FIELDS[kind], index)
                    except ImageError as error:
                        refused[row][kind] = quarantine(batch.images[row], error, self.root)
        pixels.clear()
        return batch

    def _finish(self, batch: Batch) -> Batch:
        """Third stage: what is derived of superpixels, made now or stored, and the entries."""
        for row, one in batch.stored.items():
            if row in batch.parts and isinstance(one, Quarantined):
                batch.refused[row][SUPERPIXELS] = one
            elif row in batch.parts:
                batch.parts[row]["superpixels"] = one
        if COVER in batch.kinds:
            with self._timed("derive"):
                for row, values in batch.parts.items():
                    self._derive(batch.images[row], values, batch.refused[row])
        for row, values in batch.parts.items():
            image_id = batch.images[row].image_id
            batch.entries[row] = ImageRow(image_id, **values, refused=batch.refused[row])
        return batch

    def _lent(self, image: PlanImage, kinds: frozenset[str]) -> dict[str, Any]:
        """Values of an image that other caches have, by field."""
        found: dict[str, Any] = {}
        for lender in self.lenders:
            if left := {kind for kind in kinds - {COVER} if FIELDS[kind] not in found}:
                found |= lender.lend(image, left)
        return found

    def _derive(
        self, image: PlanImage, parts: dict[str, Any], refused: dict[str, Quarantined]
    ) -> None:
        """Add cover and SSPE masks of an image's superpixels."""
        from ..masks.encoder_view import View, derive

        if SUPERPIXELS in refused:
            refused[COVER] = refused[SUPERPIXELS]
            return
        features, budget = self.plan.recipe.features, self.plan.recipe.sspe.budget
        view = View(features.view, features.size)
        try:
            parts["cover"], parts["sspe_masks"] = derive(
                parts["superpixels"], view, self.plan.grid, budget
            )
        except ImageError as error:
            refused[COVER] = quarantine(image, error, self.root)

    def _superpixels(
        self,
        images: dict[int, PlanImage],
        pixels: dict[int, Pixels],
        embeddings: bool,
        parts: dict[int, dict[str, Any]],
        refused: dict[int, dict[str, Quarantined]],
    ) -> None:
        """Add superpixels and SAM embedding by row; what the source refuses is quarantined."""
        from ..superpixels.generator import generate

        assert self.models.source is not None
        names = [images[row].path for row in pixels]
        try:
            found, sam = generate(
                self.models.source, [*pixels.values()], names, embeddings=embeddings
            )
        except ImageError as error:
            if len(pixels) > 1:  # one of them is bad: each alone tells which
                for row, image in pixels.items():
                    self._superpixels(images, {row: image}, embeddings, parts, refused)
                return
            (row,) = pixels
            bad = quarantine(images[row], error, self.root)
            refused[row][SUPERPIXELS] = bad
            if embeddings:
                refused[row][SAM] = bad
            return
        for index, row in enumerate(pixels):
            parts[row].setdefault("superpixels", found[index])
            if sam:
                parts[row].setdefault("sam", sam[index])


def _refusal(entry: Entry) -> Quarantined | None:
    """The first refusal of an image by a layer, None if all take it."""
    if isinstance(entry, Quarantined):
        return entry
    return next(iter(entry.refused.values()), None)


def quarantine(image: PlanImage, error: ImageError, root: Path) -> Quarantined:
    """Quarantine entry of an image. Its text must not depend on local paths."""
    text = str(error)
    _, found, detail = text.partition(f": {error.reason}: ")
    text = detail if found else text
    for folder in (os.path.realpath(root), root_name(root)):
        text = text.replace(f"{folder.rstrip(os.sep)}{os.sep}", "")
    return Quarantined(image.image_id, error.reason, shorten(text, 500))
