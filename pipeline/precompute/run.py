"""`svp precompute`: compute the outputs of the frozen models once, offline.

Plan -> missing shards -> executor -> index. Running it again continues where it stopped and does
nothing when there is nothing to do. Invariant: whatever ends a run (signal, kill, full disk, power),
the cache holds whole committed shards and the same command finishes it to the same bytes.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..cache.create import create_cache, write_metadata
from ..cache.exchange import caches_beside, reuse
from ..cache.index import finalize, is_complete, load_rows
from ..cache.layers import ORDER, SUPERPIXELS, Layer
from ..cache.layout import PLAN, exists
from ..cache.made_by import note_code
from ..cache.manifest import Committed, missing_shards, read_committed
from ..cache.plan import Plan, all_plans
from ..cache.reopen import adopt, quarantined
from ..cache.verify import uncommit, uncommit_damaged
from ..datasets.stored_photos import resolved
from ..display import show
from ..errors import CacheError, ConfigError, Interrupted, PlanMismatchError
from ..executors import ExecutorOptions, build, require_executor
from ..executors.base import Event
from ..executors.devices import check_cluster, task_device
from ..process import Stop
from ..recipe import Recipe
from ..records import LocalPaths
from ..store import FolderStore, Place, open_store
from .claims import HOLD_S, Claims, clear_claims
from .cost_model import estimate
from .join import SHARE, ClaimedQueue, claims_on, planning
from .lender import lenders
from .planner import Content, build_plan, with_libraries
from .progress import Progress, RunLog, Tally, write_failures
from .run_report import PrecomputeReport
from .shard_task import ShardTask

log = logging.getLogger(__name__)

READ_SHARDS = 256  # shards done after which their manifests are read, as they are at the end
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
    shard_timeout_s    a worker that takes longer for one shard is killed; None: never, with `join`
                       after `HOLD_S`
    join               work with all other processes that join: each takes shards nobody works on
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
    join: bool = False
    shards: range | None = None
    hint: str = "run the same command again"

    def __post_init__(self) -> None:
        require_executor(self.executor)  # told before anything is read
        check_cluster(self)
        if self.shard_timeout_s is not None and not self.shard_timeout_s > 0:  # NaN as well
            raise ConfigError(f"shard_timeout={self.shard_timeout_s:g}: need more than 0 seconds")
        for word, given, why in (
            ("--shards", self.shards is not None, "processes that join divide all shards"),
            ("--no-resume", not self.resume, "a process that joins continues a cache"),
            ("--retry-quarantined", self.retry_quarantined, "run it once without --join"),
        ):
            if self.join and given:
                raise ConfigError(f"--join with {word}: {why}")


def precompute(
    content: Content,
    recipe: Recipe,
    where: LocalPaths,
    out: Place,
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
        waits = planning(out, stop.check) if options.join else nullcontext(stop.check)
        with waits as check:
            plan, view = _prepare(
                limited(content, options.limit), recipe, where, out, options, check
            )
        committed = read_committed(out, plan, snapshot=True)
        missing = missing_shards(out, plan, committed)
        if missing and (came := reuse(out, plan, caches_beside(out))):
            for folder, other in came.items():
                log.info(f"{folder}: taken from {show(str(other), 200)}, not computed again")
            committed = read_committed(out, plan, snapshot=True)
            missing = missing_shards(out, plan, committed)
        sound, left = committed.without(missing), missing
        if options.shards is not None:
            missing = {shard: missing[shard] for shard in missing if shard in options.shards}
        tally = Tally(len(plan.images), len(plan.images) - _count(plan, missing))
        timeout, tries, claims = options.shard_timeout_s, options.max_tries, None
        if options.join:
            timeout = timeout or HOLD_S
            claims = claims_on(out, plan, tries, timeout)
            missing = {s: layers for s, layers in missing.items() if str(s) not in claims.abandoned}
        if not missing:
            return _finish(plan, out, options, tally, committed, left, claims)
        _check_disk(plan, missing, out)
        uncommit_damaged(out, committed, missing)
        lacking = {layer for layers in missing.values() for layer in layers}
        if any(layer.kind == ORDER for layer in lacking):
            raise CacheError(
                f"{show(str(out), 300)}: its order is not complete: it is made of the other layers: run "
                f"`svp cache order {show(str(out), 300)}` first"
            )
        note_code(out, lacking)

        # The shards' rows go from the workers to the disk; only events come back here. A listener
        # ends the run by raising, and closing the events ends the workers.
        own = replace(where, images=resolved(where.images))
        kinds = frozenset(layer.kind for layer in lacking)
        device = task_device(options)
        lent = lenders(plan, lacking, caches_beside(out), out)
        cache = open_store(out.resolve() if isinstance(out, Path) else out)
        task = ShardTask(cache, own, device, options.threads, view, kinds, lent)
        queue = ClaimedQueue(task, missing, tries, claims, out, tally.others) if claims else None
        events = build(options.executor, options).events(
            task, [*missing], max_tries=tries, shard_timeout_s=timeout, queue=queue
        )
        run_log, read, seen, look_at = RunLog(open_store(out), tally), 0, sound, 0.0
        try:
            shown = nullcontext() if quiet else Progress(tally)
            with shown as bar, claims or nullcontext(), closing(events):
                for event in events:
                    tally.update(event)
                    run_log.update(event)
                    if bar:
                        bar.update(event)
                    on_event(event)
                    stop.check()
                    if claims:
                        claims.alive()
                    # Copies of manifests now and then, so that the next run reads few; of a very
                    # large cache the listing alone takes long, and is done more rarely.
                    began = time.monotonic()
                    if tally.shards - read >= READ_SHARDS and began >= look_at:
                        read, seen = tally.shards, read_committed(out, plan, seen, snapshot=True)
                        look_at = began + SHARE * (time.monotonic() - began)
        except BaseException as error:
            with suppress(OSError, CacheError):  # a full disk must not hide why the run stopped
                run_log.status("stopped")
                if isinstance(error, Interrupted):
                    read_committed(out, plan, seen, snapshot=True)
            raise

        # Only what this run and others beside it committed since is still to be read.
        committed = read_committed(out, plan, seen, snapshot=True)
        left = missing_shards(out, plan, committed, known=sound)
        return _finish(plan, out, options, tally, committed, left, claims)


def limited(content: Content, limit: int | None) -> Content:
    """The first `limit` images of `content`."""
    if limit is None:
        return content
    if limit < 1:
        raise ConfigError(f"limit={limit}: need >= 1")
    return replace(content, images=content.images[:limit])


def _prepare(
    content: Content,
    recipe: Recipe,
    where: LocalPaths,
    out: Place,
    options: RunOptions,
    stop: Callable[[], None],
) -> tuple[Plan, str]:
    """The plan of this run and its file in the cache; the folder is made or joined."""
    if not content.images:
        raise ConfigError(f"split {show(content.split)}: there is no image to compute")

    # The plans that are there lend their hashes; of images that were quarantined they count for
    # nothing, because their files may have been repaired since.
    store = open_store(out)
    there = all_plans(store) if exists(store, PLAN) else {}
    if there and not options.resume:
        raise CacheError(f"{show(str(out), 300)} is a cache already: add --resume to continue it")
    retry = there if options.retry_quarantined else {}
    committed = {view: read_committed(out, old) for view, old in retry.items()}
    bad = {view: quarantined(out, old, committed[view]) for view, old in retry.items()}
    distrust = frozenset(i for shards in bad.values() for ids in shards.values() for i in ids)
    wanted = with_libraries(recipe)
    known = next((old for old in there.values() if old.recipe == wanted), there.get(PLAN))
    plan = build_plan(content, recipe, where.images, known=known, distrust=distrust, stop=stop)

    # Repaired files make other plans: the good shards move over to them, the others are made again.
    for view, old in retry.items():
        new = replace(old, images=plan.images)
        adopt(out, view, old, plan if old is known else new, committed[view])
        for layer in new.layers:
            found = committed[view].of(layer).values()
            uncommit(store, layer, [one.shard for one in found if one.bad])
    # Another plan over superpixels that are there adds its layers to the cache.
    own = plan.layer(SUPERPIXELS).id
    shares = any(old.layer(SUPERPIXELS).id == own for old in there.values())
    try:
        view = create_cache(out, plan, view=shares)
    except PlanMismatchError as error:
        if known and known.recipe == plan.recipe and len(known.images) == len(plan.images):
            hint = "if quarantined images were repaired on purpose, add --retry-quarantined"
            raise PlanMismatchError(f"{error}; {hint}") from None
        raise
    return plan, view


def _finish(
    plan: Plan,
    out: Place,
    options: RunOptions,
    tally: Tally,
    committed: Committed,
    missing: Collection[int],
    claims: Claims | None,
) -> PrecomputeReport:
    # The index is written once all shards are there, and again whenever one was made anew.
    complete = not missing
    renew = tally.shards and not options.join  # of many that join, one writes it
    if complete and (renew or not is_complete(out, plan)):
        open_store(out).tidy()  # of workers killed in the middle of a write
        rows = finalize(out, plan, committed)
    else:
        rows = load_rows(out, plan, committed)
    if complete:
        write_metadata(open_store(out), plan)
        clear_claims(out, plan)
    abandoned = dict(tally.abandoned)
    if claims:
        again = "; the same command without --join tries it again"
        abandoned |= {int(name): why + again for name, why in claims.abandoned.items()}
    abandoned = {s: why for s, why in abandoned.items() if s in missing}

    failures = Counter(reason for reason, _ in rows.bad.values())
    write_failures(open_store(out), _failures(plan, rows.bad))
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
        abandoned=abandoned,
        superpixels=int(rows.k.sum()),
        fallbacks=len(rows.fallback),
        complete=complete,
        failed=bool(abandoned) or too_many or (complete and not good),
        seconds=tally.elapsed,
        stage_seconds=dict(tally.seconds),
    )


def _failures(plan: Plan, bad: Mapping[int, tuple[str, str]]) -> list[dict[str, object]]:
    return [
        {
            "image_id": plan.images[row].image_id,
            "path": plan.images[row].path,
            "reason": reason,
            "detail": detail,
        }
        for row, (reason, detail) in sorted(bad.items())
    ]


def _check_disk(plan: Plan, missing: Mapping[int, Sequence[Layer]], out: Place) -> None:
    """Refuse to start what the disk cannot hold. Raises CacheError."""
    store = open_store(out)
    if not isinstance(store, FolderStore):
        return
    arrays = {spec.name for layers in missing.values() for layer in layers for spec in layer.arrays}
    sizes = estimate(plan, _count(plan, missing)).bytes
    need = sum(size for name, size in sizes.items() if name in arrays or name == "manifests")
    free = shutil.disk_usage(store.root).free
    if need + SPARE_BYTES > free:
        raise CacheError(
            f"{show(str(out), 300)}: this run needs about {need / 1e9:.2f} GB, "
            f"{free / 1e9:.2f} GB are free: free some space, name another folder, or --limit"
        )


def _count(plan: Plan, shards: Iterable[int]) -> int:
    return sum(len(plan.layers[0].rows(shard)) for shard in shards)
