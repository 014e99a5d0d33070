"""Measures a few images on this machine, for the cost model.

The workers are those of the run (spawned, one thread each) and all compute at once, so that what
they take from each other (memory bandwidth, shared cores) is in the figures. Nothing is kept.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CacheError
from ..executors.base import Event, ExecutorOptions, Job
from ..executors.devices import task_device, usable_devices
from ..executors.local import LocalExecutor
from ..recipe import Recipe
from ..records import ImageRecord, Where
from ..store.create import create_cache
from ..store.layout import PLAN
from ..store.plan import Plan
from ..store.schema import array_specs
from .cost import Calibration, seconds_per_image
from .planning import Content, build_plan, sized_plan
from .stage import ShardTask

IMAGES = 16  # per worker, after the first batch, which warms everything up
BUDGET_S = 20.0  # what the images of one worker may take, as far as one can tell


@dataclass(frozen=True)
class _Probe:
    """The shard task, in each worker after `warm` images that are not timed."""

    inner: ShardTask
    warm: int

    def open(self) -> Callable[[Job], dict[str, object]]:
        do = self.inner.open()

        def timed(job: Job) -> dict[str, object]:
            if self.warm:
                do(Job(job.shard, rows=(0, self.warm)))
            return do(job)

        return timed

    def rows(self, shard: int) -> int:
        return self.inner.rows(shard)


def calibrate(
    content: Content,
    recipe: Recipe,
    where: Where,
    options: ExecutorOptions,
    *,
    images: int | None = None,
    workers: int | None = None,
) -> Calibration | None:
    """Compute a few images per worker, spread over `content`, in a temporary cache.

    images  per worker; None: as many as may take 20 s, at most 16

    None if there is no image to measure. Raises what the models raise when they are loaded.
    """
    count = workers or len(usable_devices(options))
    expected = seconds_per_image(sized_plan(recipe), "core") if options.device == "cpu" else 1.0
    images = images or min(IMAGES, max(1, int(BUDGET_S / expected)))
    sample = _spread(content.images, count * images)
    if not sample:
        return None
    with tempfile.TemporaryDirectory(prefix="svp-cost-") as folder:
        plan = build_plan(Content(sample), recipe, where.images)
        # One shard per worker: every worker is busy from start to end.
        plan = replace(plan, shard_size=-(-len(sample) // count))
        create_cache(Path(folder), plan)
        task = ShardTask(folder, where, task_device(options), options.threads)
        probe = _Probe(task, min(plan.recipe.batch, plan.shard_size) if images > 1 else 0)
        return _measure(Path(folder), plan, probe, replace(options, workers=count))


def _measure(cache: Path, plan: Plan, probe: _Probe, options: ExecutorOptions) -> Calibration:
    began = time.monotonic()
    ready: list[float] = []
    results: list[Mapping[str, object]] = []

    def listen(event: Event) -> None:
        if event.kind == "worker_ready":
            ready.append(time.monotonic() - began)
        if event.kind == "shard_done":
            results.append(event.result)

    summary = LocalExecutor(options).run(probe, range(plan.num_shards), listen)
    if summary.parked:
        raise CacheError(f"no estimate: {next(iter(summary.parked.values()))}")
    seconds: Counter[str] = Counter()
    for result in results:
        found = result["seconds"]
        assert isinstance(found, Mapping)
        seconds.update(found)
    return Calibration(
        images=len(plan.images),
        workers=plan.num_shards,
        start_s=max(ready),
        image_s={name: value / len(plan.images) for name, value in seconds.items()},
        bytes=_bytes(cache, plan),
        peak_rss=max(value for r in results if isinstance(value := r["peak_rss"], int)),
    )


def _bytes(cache: Path, plan: Plan) -> dict[str, float]:
    """Mean stored bytes per image of each compressed array."""
    assert (cache / PLAN).exists()
    files = {
        spec.name: [
            path.stat().st_size for path in (cache / spec.name / "c").rglob("*") if path.is_file()
        ]
        for spec in array_specs(plan)
        if spec.level is not None
    }
    index = plan.num_shards * (16 * plan.shard_size + 4)
    return {name: (sum(sizes) - index) / len(plan.images) for name, sizes in files.items()}


def _spread(images: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """`count` images evenly spaced over the list."""
    count = min(count, len(images))
    return [images[i * len(images) // count] for i in range(count)]
