"""The scheduler of all executors: assign shards to workers, retry failures, quarantine images.

A failed shard is tried `max_tries` times, each on a fresh worker. Then its images are bisected
(`poison_search`): those that crash their worker are quarantined and the rest is committed. A shard
where none is found is tried once more and then abandoned; the run continues with the others. An
`SvpError` from a worker (disk full, wrong weights) would recur on every shard: it ends the run.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing

from ..display import shorten
from ..errors import CacheError, SvpError
from .base import Event, EventKind, ExecutorOptions, Job, Outcome, Pool, Reason, Summary, Task
from .poison_search import PoisonSearch

TICK_S = 0.2
MAX_ABANDONED_BEFORE_FIRST_SUCCESS = (
    3  # shards parked before the first one succeeded: stop, nothing works
)


class PoolExecutor(ABC):
    """An `Executor` defined by the pool of workers it connects to; `run_shards` does the rest."""

    def __init__(self, options: ExecutorOptions) -> None:
        self.options = options

    @abstractmethod
    def connect(self, task: Task, shards: int) -> AbstractContextManager[Pool]:
        """Connect to a pool for `shards` shards; leaving the context stops what it started only."""

    def run(
        self,
        task: Task,
        shards: Sequence[int],
        on_event: Callable[[Event], None],
        *,
        max_tries: int = 3,
        shard_timeout_s: float | None = None,
    ) -> Summary:
        """See `Executor` and `run_shards`."""
        with self.connect(task, len(shards)) as pool:
            return run_shards(
                pool, task, shards, on_event, max_tries=max_tries, shard_timeout_s=shard_timeout_s
            )


def run_shards(
    pool: Pool,
    task: Task,
    shards: Sequence[int],
    on_event: Callable[[Event], None],
    *,
    max_tries: int = 3,
    shard_timeout_s: float | None = None,
) -> Summary:
    """Run `shards` on `pool` and close it, also when `on_event` or a worker's error ends the run.

    Raises what `on_event` raised, a worker's SvpError, or CacheError if no worker can start.
    """
    with closing(pool):
        run = Scheduler(pool, task, shards, on_event, max_tries, shard_timeout_s)
        return run.loop()


class Scheduler:
    """State of one run: queued and running jobs, attempts, searches, and what became of shards."""

    def __init__(
        self,
        pool: Pool,
        task: Task,
        shards: Sequence[int],
        on_event: Callable[[Event], None],
        max_tries: int,
        timeout: float | None,
    ) -> None:
        self.pool, self.task, self.on_event = pool, task, on_event
        self.max_tries, self.timeout = max_tries, timeout
        self.queue = deque(Job(shard) for shard in shards)
        self.idle: set[int] = set()
        self.busy: dict[int, tuple[Job, float]] = {}  # worker -> job, when it was given
        self.tries = dict.fromkeys(shards, 0)
        self.searches: dict[int, PoisonSearch] = {}
        self.done: list[int] = []
        self.abandoned: dict[int, str] = {}
        self.poison: list[tuple[int, int, Reason]] = []
        self.failed_starts = self.deaths = self.timeouts = 0

    def loop(self) -> Summary:
        """Run until every shard is committed or abandoned."""
        began = time.monotonic()
        # The pool of the calling process runs jobs inside `wait`, which returns no progress.
        if hasattr(self.pool, "listen"):
            self.pool.listen = self._relay
        self._emit("started", result={"shards": len(self.queue), "workers": self.pool.size})
        while self.queue or self.busy:
            self._dispatch()
            for outcome in self.pool.wait(TICK_S):
                self._handle(outcome)
            self._stop_hung_workers()
            self._emit("tick")
        self._emit("finished")
        return Summary(
            done=tuple(self.done),
            abandoned=self.abandoned,
            poison=tuple(self.poison),
            tries={shard: tries for shard, tries in self.tries.items() if tries > 1},
            deaths=self.deaths,
            timeouts=self.timeouts,
            seconds=time.monotonic() - began,
        )

    def _dispatch(self) -> None:
        while self.queue and self.idle:
            worker, job = min(self.idle), self.queue.popleft()
            if job.shard in self.abandoned:
                continue  # a probe of a shard that was abandoned in between
            self.idle.remove(worker)
            self.tries[job.shard] += job.rows is None
            self.busy[worker] = job, time.monotonic()
            self.pool.submit(worker, job)

    def _handle(self, outcome: Outcome) -> None:
        worker = outcome.worker
        match outcome.kind:
            case "ready":
                self.failed_starts = 0
                self.idle.add(worker)
                self._emit("worker_ready", worker=worker)
            case "progress":
                job, _ = self.busy.get(worker, (None, 0.0))
                if job is not None and job.rows is None and outcome.value.get("shard") == job.shard:
                    self._emit("progress", job.shard, worker, result=outcome.value)
            case "done":
                self.idle.add(worker)
                self._commit(self.busy.pop(worker)[0], worker, outcome)
            case "raised" | "refused":
                if isinstance(outcome.error, SvpError):
                    raise outcome.error
                self._replace_worker(worker, "worker_error", outcome.detail)
            case "died":
                self.deaths += 1
                self._emit("worker_died", worker=worker, detail=outcome.detail)
                self._replace_worker(worker, "worker_died", outcome.detail)

    def _relay(self, outcome: Outcome) -> None:
        self._handle(outcome)
        self._emit("tick")

    def _stop_hung_workers(self) -> None:
        if self.timeout is None:
            return
        now = time.monotonic()
        for worker in [w for w, (_, since) in self.busy.items() if now - since > self.timeout]:
            self.timeouts += 1
            self._emit("worker_hung", self.busy[worker][0].shard, worker)
            self._replace_worker(worker, "worker_timeout", f"no result after {self.timeout:g} s")

    def _replace_worker(self, worker: int, reason: Reason, detail: str) -> None:
        """Replace a worker that died, hung or failed, and retry the job it had."""
        self.idle.discard(worker)
        held = self.busy.pop(worker, None)

        # A worker without a job failed while it loaded the models: no shard can be blamed, and
        # replacing it without end would hang the run.
        if held is None:
            self.failed_starts += 1
            if self.failed_starts >= self.max_tries * self.pool.size:
                raise CacheError(
                    f"workers stop before their first shard ({self.failed_starts} in a row), "
                    f"last: {shorten(detail, 1000)}. Check memory and weights with `svp doctor`"
                )
        self.pool.restart(worker)
        if held is not None:
            self._retry_or_search(held[0], worker, reason, detail)

    def _commit(self, job: Job, worker: int, outcome: Outcome) -> None:
        if job.rows is not None:
            self._continue_search(job, self.searches[job.shard].passed())
            return
        self.done.append(job.shard)
        for row, reason in job.poison:
            self.poison.append((job.shard, row, reason))
            self._emit("image_poison", job.shard, worker, result={"row": row, "reason": reason})
        self._emit("shard_done", job.shard, worker, result=outcome.value)

    def _retry_or_search(self, job: Job, worker: int, reason: Reason, detail: str) -> None:
        search = self.searches.get(job.shard)

        # A failed probe narrows the search; it is not an attempt of its shard.
        if job.rows is not None and search:
            self._continue_search(job, search.failed(job, reason))
            return
        self._emit("shard_failed", job.shard, worker, shorten(detail, 1000), {"reason": reason})
        if search:
            # The shard without the images found fails too: the images are not the cause.
            self._abandon(job.shard, f"{reason} also after the search for bad images: {detail}")
        elif self.tries[job.shard] < self.max_tries:
            self.queue.append(job)
        else:
            self._emit("shard_hunt", job.shard, worker, f"{reason} {self.max_tries} times")
            self.searches[job.shard] = search = PoisonSearch(job.shard, self.task.rows(job.shard))
            self.queue.extendleft(reversed(search.start()))

    def _continue_search(self, job: Job, probes: list[Job]) -> None:
        self.queue.extendleft(reversed(probes))
        search = self.searches[job.shard]
        if job.shard in self.abandoned or not search.over:
            return
        if search.too_many_failures:
            self._abandon(
                job.shard, "too many of its images stop their worker: the images are not the cause"
            )
        else:
            self.queue.appendleft(search.result())

    def _abandon(self, shard: int, why: str) -> None:
        self.abandoned[shard] = shorten(why, 1000)
        self._emit("shard_parked", shard, detail=self.abandoned[shard])
        if not self.done and len(self.abandoned) >= MAX_ABANDONED_BEFORE_FIRST_SUCCESS:
            raise CacheError(
                f"stopped: the first {MAX_ABANDONED_BEFORE_FIRST_SUCCESS} shards all failed, "
                f"last (shard {shard}): {self.abandoned[shard]}"
            )

    # Event kinds are part of the printed progress and of users' listeners: they keep older words
    # ("hunt" for the search, "poison" for a crashing image, "parked" for an abandoned shard).
    def _emit(
        self,
        kind: EventKind,
        shard: int | None = None,
        worker: int | None = None,
        detail: str = "",
        result: Mapping[str, object] | None = None,
    ) -> None:
        self.on_event(Event(kind, shard, worker, detail, result or {}))
