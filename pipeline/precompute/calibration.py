"""Calibration of the cost model: measure a few images on this machine.

The workers are those of the run (spawned, one thread each) and all compute at once, so that what
they take from each other (memory bandwidth, shared cores) is in the figures. Nothing is kept.
"""

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ..cache.create import create_cache
from ..cache.layout import holds_cache
from ..cache.plan import Plan
from ..cache.reader import spread_over
from ..display import counted
from ..errors import CacheError
from ..executors.base import (
    Abandoned,
    BatchDone,
    Done,
    Event,
    ExecutorOptions,
    Job,
    JobReport,
    Needs,
    Ready,
    Work,
)
from ..executors.devices import task_device, usable_devices
from ..executors.local import LocalExecutor
from ..recipe import Recipe
from ..records import LocalPaths
from ..store import open_store
from .cost_model import Calibration, seconds_per_image
from .planner import Content, build_plan, sized_plan
from .shard_task import ShardTask

log = logging.getLogger(__name__)

IMAGES = 16  # per worker, after the first batch, which warms everything up
SAY_EVERY_S = 5.0
BUDGET_S = 20.0  # what the images of one worker may take, as far as one can tell


@dataclass(frozen=True)
class _Probe:
    """The shard task, in each worker after `warm` images that are not timed."""

    inner: ShardTask
    warm: int

    def open(self) -> Work:
        do = self.inner.open()

        def timed(job: Job) -> Generator[JobReport, None, JobReport]:
            if self.warm:
                yield from do(Job(job.shard, rows=(0, self.warm)))
            return (yield from do(job))

        return timed

    @property
    def needs(self) -> Needs:
        return self.inner.needs

    def rows(self, shard: int) -> int:
        return self.inner.rows(shard)


def calibrate(
    content: Content,
    recipe: Recipe,
    where: LocalPaths,
    options: ExecutorOptions,
    *,
    images: int | None = None,
    workers: int | None = None,
    bound_s: float | None = None,
) -> Calibration | None:
    """Compute a few images per worker, spread over `content`, in a temporary cache.

    images   per worker; None: as many as may take 20 s, at most 16
    bound_s  seconds after which what was measured until then has to do, start-up included

    None if there is no image to measure, or not one was done in time. Raises what the models raise
    when they are loaded.
    """
    count = workers or len(usable_devices(options))
    expected = seconds_per_image(sized_plan(recipe), "core") if options.device == "cpu" else 1.0
    images = images or min(IMAGES, max(2, int(BUDGET_S / expected)))
    slow = options.device == "cpu" and bound_s is not None and expected > 1
    if slow:  # a CPU does a batch's images one after the other anyway: hear of each
        recipe = recipe.model_copy(update={"batch": 1})
    numbers = spread_over(range(len(content.images)), count * images)
    sample = [content.images[number] for number in numbers]
    if not sample:
        return None
    limit = "" if bound_s is None else f", for at most {bound_s:.0f} s"
    log.info(
        f"measuring up to {counted(len(sample), 'image')} on {counted(count, 'worker')}{limit}"
    )
    with tempfile.TemporaryDirectory(prefix="svp-cost-") as folder:
        plan = build_plan(replace(content, images=sample), recipe, where.images)
        # One shard per worker: every worker is busy from start to end.
        plan = replace(plan, shard_size=-(-len(sample) // count))
        create_cache(Path(folder), plan)
        task = ShardTask(open_store(folder), where, task_device(options), options.threads)
        warm = 0 if slow or images == 1 else min(plan.recipe.batch, plan.shard_size)
        probe = _Probe(task, warm)
        measure = _Measure(Path(folder), plan, bound_s)
        return measure.run(probe, replace(options, workers=count))


class _Measure:
    """One calibration: listens to its workers and ends them when the time is over."""

    def __init__(self, cache: Path, plan: Plan, bound_s: float | None) -> None:
        self.cache, self.plan, self.bound = cache, plan, bound_s
        self.began = self.said = time.monotonic()
        self.ready: list[float] = []
        self.results: list[JobReport] = []
        self.told: dict[int | None, list[JobReport]] = {}  # by shard
        self.kind = "CPU worker"

    def run(self, probe: _Probe, options: ExecutorOptions) -> Calibration | None:
        """Until all images are done, or the time is over. Raises CacheError."""
        self.kind = "CPU worker" if options.device == "cpu" else "GPU"
        events = LocalExecutor(options).events(probe, range(self.plan.num_shards))
        with closing(events):
            for event in events:
                if self._listen(event):
                    return self.so_far()
        seconds: Counter[str] = Counter()
        for result in self.results:
            seconds.update(result.seconds)
        elapsed = sum(result.elapsed for result in self.results)
        return Calibration(
            images=len(self.plan.images),
            workers=self.plan.num_shards,
            start_s=max(self.ready),
            image_s=elapsed / len(self.plan.images),
            stage_s={name: value / len(self.plan.images) for name, value in seconds.items()},
            bytes=_bytes(self.cache, self.plan),
            peak_rss=max(result.peak_rss for result in self.results),
            worker=self.kind,
        )

    def so_far(self) -> Calibration | None:
        """Calibration from the images so far; a first batch counts only if it is the only one."""
        seconds: Counter[str] = Counter()
        images, elapsed = 0, 0.0
        for told in self.told.values():
            images += sum(one.images for one in (told[1:] or told))
            seconds.update(told[-1].seconds)
            elapsed += told[-1].elapsed
            if len(told) > 1:
                seconds.subtract(told[0].seconds)
                elapsed -= told[0].elapsed
        if not images:
            return None
        return Calibration(
            images=images,
            workers=len(self.told),
            start_s=max(self.ready),
            image_s=elapsed / images,
            stage_s={name: value / images for name, value in seconds.items()},
            bytes={},
            peak_rss=max(told[-1].peak_rss for told in self.told.values()),
            worker=self.kind,
            cut=True,
        )

    def _listen(self, event: Event) -> bool:
        """Take note of `event`; whether the time is over."""
        passed = time.monotonic() - self.began
        match event:
            case Ready():
                self.ready.append(passed)
            case BatchDone():
                self.told.setdefault(event.shard, []).append(event.report)
            case Done():
                self.results.append(event.report)
            case Abandoned():
                raise CacheError(f"no estimate: {event.detail}")
        if passed - (self.said - self.began) >= SAY_EVERY_S:
            self.said = time.monotonic()
            done = sum(one.images for told in self.told.values() for one in told)
            state = counted(done, "image") if self.ready else "models are being loaded"
            log.info(f"measuring: {state} after {passed:.0f} s")
        return self.bound is not None and passed >= self.bound


def _bytes(cache: Path, plan: Plan) -> dict[str, float]:
    """Mean stored bytes per image of each compressed array."""
    assert holds_cache(cache)
    files = {
        spec.name: [
            path.stat().st_size for path in (cache / spec.path / "c").rglob("*") if path.is_file()
        ]
        for spec in plan.arrays
        if spec.level is not None
    }
    index = plan.num_shards * (16 * plan.shard_size + 4)
    return {name: (sum(sizes) - index) / len(plan.images) for name, sizes in files.items()}
