"""`svp precompute`: compute the outputs of the frozen models once, offline.

Plan -> missing shards -> executor -> index. Running it again continues where it stopped and does
nothing when there is nothing to do. Invariant: whatever ends a run (signal, kill, full disk, power),
the cache holds whole committed shards and the same command finishes it to the same bytes.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..cache.create import create_cache
from ..cache.index import finalize, load_rows
from ..cache.layout import COMPLETE, LOGS, PLAN
from ..cache.manifest import Committed, missing_shards, read_committed
from ..cache.plan import Plan
from ..cache.reopen import adopt, quarantined
from ..cache.verify import uncommit
from ..display import Report, counted, show
from ..errors import CacheError, ConfigError, PlanMismatchError
from ..executors import ExecutorOptions, build, require_executor
from ..executors.base import Event
from ..executors.devices import check_cluster, task_device
from ..io.atomic import remove_stale
from ..io.paths import refuse_url
from ..process import Stop
from ..recipe import Recipe
from ..records import LocalPaths
from .cost_model import estimate
from .planner import Content, build_plan
from .progress import Progress, RunLog, Tally, write_failures
from .shard_task import ShardTask

SPARE_BYTES = 256 << 20  # free space to leave: logs, other programs, the file system itself


@dataclass(frozen=True, kw_only=True)
class RunOptions(ExecutorOptions):
    """Options of a `precompute` run; none changes a stored bit except `limit`.

    executor           "local", "ray", "dask" or a plug-in's, with its `ExecutorOptions`
    limit              only the first that many images (their plan, so their cache, is another one)
    resume             continue a cache that is there; False refuses it
    retry_quarantined  compute the shards with quarantined images again, accept repaired files
    max_failures       images that may be missing from the cache before the run counts as failed
    max_tries          attempts per shard before its images are searched for the culprit
    shard_timeout_s    a worker that takes longer for one shard is killed; None: never
    shards             only these shards ("a:b" of a static split over machines); None: all
    hint               the command that resumes the run, for the message after a signal
    """

    executor: str = "local"
    limit: int | None = None
    resume: bool = True
    retry_quarantined: bool = False
    max_failures: int | None = None
    max_tries: int = 3
    shard_timeout_s: float | None = None
    shards: range | None = None
    hint: str = "run the same command again"

    def __post_init__(self) -> None:
        require_executor(self.executor)  # told before anything is read
        check_cluster(self)


@dataclass(frozen=True, slots=True)
class PrecomputeReport(Report):
    """Outcome of a run and state of the cache.

    computed     images computed by this run, good or not
    good         images in the cache, all runs together
    failures     images not in the cache: reason -> how many
    abandoned    shards that exhausted their retries in this run, with the cause
    complete     whether every shard is committed
    failed       True if more images are missing than `max_failures` allows, if not one is good, or
                 if shards were abandoned
    next         the command that uses the finished cache; empty: none
    """

    cache: str
    cache_id: str
    images: int
    computed: int
    good: int
    failures: dict[str, int]
    abandoned: dict[int, str]
    superpixels: int
    fallbacks: int
    complete: bool
    failed: bool
    seconds: float
    stage_seconds: dict[str, float]
    next: str = ""

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return int(self.failed)

    def to_json(self) -> dict[str, object]:
        # Readers of `--json` know the abandoned shards by an older word.
        older = {"abandoned": "parked"}
        values = {older.get(name, name): value for name, value in asdict(self).items()}
        return values | {"exit_code": self.exit_code}

    def lines(self) -> list[str]:
        rate = f" ({self.computed / self.seconds:.1f}/s)" if self.computed else ""
        mean = self.superpixels / self.good if self.good else 0.0
        state = "complete" if self.complete else "not complete"
        there = f"{self.good} of {self.images} in the cache"
        lines = [
            f"{self.cache}: cache {self.cache_id[:12]}, {state}",
            f"{counted(self.computed, 'image')} computed in {self.seconds:.1f} s{rate}, {there}",
            (
                f"{mean:.1f} superpixels per image, {counted(self.fallbacks, 'image')} with the "
                "whole image as one"
            ),
        ]
        lines += [f"quarantined: {n} x {why}" for why, n in sorted(self.failures.items())]
        if self.failures:
            lines.append(f"see {self.cache}/{LOGS}/failures.jsonl; retry with --retry-quarantined")
        lines += [f"shard {s} abandoned: {why}" for s, why in sorted(self.abandoned.items())]
        return [*lines, *([f"next: {self.next}"] if self.next else [])]


def precompute(
    content: Content,
    recipe: Recipe,
    where: LocalPaths,
    out: Path,
    options: RunOptions | None = None,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    quiet: bool = False,
) -> PrecomputeReport:
    """Make or finish the cache `out`.

    Raises Interrupted after SIGINT or SIGTERM, PlanMismatchError if `out` is a cache of something
    else, CacheError (disk full, nothing works), MissingError, ConfigError, WeightsError.
    """
    options = options or RunOptions()
    with Stop(options.hint) as stop:
        # What is to be computed: the plan fixes every byte, the manifests say which shards are done.
        plan = _prepare(limited(content, options.limit), recipe, where, out, options, stop.check)
        committed = read_committed(out, plan)
        missing = missing_shards(out, plan, committed)
        sound = {shard: committed[shard] for shard in committed if shard not in missing}
        if options.shards is not None:
            missing = [shard for shard in missing if shard in options.shards]
        tally = Tally(len(plan.images), len(plan.images) - _count(plan, missing))
        if not missing:
            return _finish(plan, out, options, tally, committed)
        _check_disk(plan, missing, out)

        # The shards' rows go from the workers to the disk; only events come back here. A listener
        # ends the run by raising, and closing the events ends the workers.
        own = replace(where, images=where.images.resolve())
        task = ShardTask(str(out.resolve()), own, task_device(options), options.threads)
        events = build(options.executor, options).events(
            task, missing, max_tries=options.max_tries, shard_timeout_s=options.shard_timeout_s
        )
        log = RunLog(out / LOGS, tally)
        try:
            with nullcontext() if quiet else Progress(tally) as bar, closing(events):
                for event in events:
                    tally.update(event)
                    log.update(event)
                    if bar:
                        bar.update(event)
                    on_event(event)
                    stop.check()
        except BaseException:
            with suppress(OSError):  # a full disk must not hide why the run stopped
                log.status("stopped")
            raise

        # Only what this run and others beside it committed since is still to be read.
        committed = read_committed(out, plan, known=sound)
        return _finish(plan, out, options, tally, committed)


def limited(content: Content, limit: int | None) -> Content:
    """The first `limit` images of `content`."""
    if limit is None:
        return content
    if limit < 1:
        raise ConfigError(f"limit={limit}: need >= 1")
    return Content(content.images[:limit], content.split, content.digests)


def _prepare(
    content: Content,
    recipe: Recipe,
    where: LocalPaths,
    out: Path,
    options: RunOptions,
    stop: Callable[[], None],
) -> Plan:
    """The plan of this run, its folder made or joined."""
    refuse_url(out)  # before every image is hashed for the plan
    if not content.images:
        raise ConfigError(f"split {show(content.split)}: there is no image to compute")

    # The plan that is there lends its hashes; of images that were quarantined they count for
    # nothing, because their files may have been repaired since.
    old = Plan.load(out / PLAN) if os.path.lexists(out / PLAN) else None
    if old and not options.resume:
        raise CacheError(f"{show(str(out), 300)} is a cache already: add --resume to continue it")
    committed = read_committed(out, old) if old and options.retry_quarantined else {}
    bad = quarantined(committed)
    distrust = frozenset(image_id for ids in bad.values() for image_id in ids)
    plan = build_plan(content, recipe, where.images, known=old, distrust=distrust, stop=stop)

    # Repaired files make another plan: the good shards move over to it, the others are made again.
    if old and options.retry_quarantined:
        adopt(out, old, plan, committed)
        uncommit(out, bad)
    try:
        create_cache(out, plan)
    except PlanMismatchError as error:
        if old and old.recipe == plan.recipe and len(old.images) == len(plan.images):
            hint = "if quarantined images were repaired on purpose, add --retry-quarantined"
            raise PlanMismatchError(f"{error}; {hint}") from None
        raise
    return plan


def _finish(
    plan: Plan, out: Path, options: RunOptions, tally: Tally, committed: Committed
) -> PrecomputeReport:
    # The index is written once all shards are there, and again whenever one was made anew.
    complete = not missing_shards(out, plan, committed)
    if complete and (tally.shards or not (out / COMPLETE).exists()):
        remove_stale(out)  # of workers killed in the middle of a write
        rows = finalize(out, plan, committed)
    else:
        rows = load_rows(out, plan, committed)

    failures = Counter(reason for reason, _ in rows.bad.values())
    write_failures(out / LOGS, _failures(plan, rows.bad))
    allowed = options.max_failures
    too_many = allowed is not None and sum(failures.values()) > allowed
    good = int((rows.k > 0).sum())
    return PrecomputeReport(
        cache=str(out),
        cache_id=plan.id,
        images=len(plan.images),
        computed=tally.images,
        good=good,
        failures=dict(failures),
        abandoned=tally.abandoned,
        superpixels=int(rows.k.sum()),
        fallbacks=len(rows.fallback),
        complete=complete,
        failed=bool(tally.abandoned) or too_many or (complete and not good),
        seconds=tally.elapsed,
        stage_seconds=dict(tally.seconds),
    )


def _failures(plan: Plan, bad: dict[int, tuple[str, str]]) -> list[dict[str, object]]:
    return [
        {
            "image_id": plan.images[row].image_id,
            "path": plan.images[row].path,
            "reason": reason,
            "detail": detail,
        }
        for row, (reason, detail) in sorted(bad.items())
    ]


def _check_disk(plan: Plan, missing: Sequence[int], out: Path) -> None:
    """Refuse to start what the disk cannot hold. Raises CacheError."""
    need = estimate(plan, _count(plan, missing)).total_bytes
    free = shutil.disk_usage(out).free
    if need + SPARE_BYTES > free:
        raise CacheError(
            f"{show(str(out), 300)}: this run needs about {need / 1e9:.2f} GB, "
            f"{free / 1e9:.2f} GB are free: free some space, name another folder, or --limit"
        )


def _count(plan: Plan, shards: Sequence[int]) -> int:
    return sum(len(plan.shard(shard)) for shard in shards)
