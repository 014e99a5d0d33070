"""The scheduler of all executors: assign shards to workers, retry failures, quarantine images.

A failed shard is tried `max_tries` times, each on a fresh worker. Then its images are bisected
(`poison_search`): those that crash their worker are quarantined and the rest is committed. A shard
where none is found is tried once more and then abandoned; the run continues with the others. An
`SvpError` from a worker (disk full, wrong weights) would recur on every shard: it ends the run.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing

from ..display import shorten
from ..errors import CacheError, SvpError
from .base import (
    Abandoned,
    BatchDone,
    Died,
    Done,
    Event,
    ExecutorOptions,
    Failed,
    Finished,
    Hung,
    Job,
    Poisoned,
    Pool,
    Ready,
    Reason,
    SearchStarted,
    Started,
    Task,
    Tick,
)
from .poison_search import PoisonSearch

TICK_S = 0.2
MAX_ABANDONED_BEFORE_FIRST_SUCCESS = 3  # then nothing works: the run stops


class Executor(ABC):
    """One way to run shards, by the pool of workers it connects to. All give the same bytes."""

    def __init__(self, options: ExecutorOptions) -> None:
        self.options = options

    @abstractmethod
    def connect(self, task: Task, shards: int) -> AbstractContextManager[Pool]:
        """Connect to a pool for `shards` shards; leaving the context stops what it started only."""

    def events(
        self,
        task: Task,
        shards: Sequence[int],
        *,
        max_tries: int = 3,
        shard_timeout_s: float | None = None,
    ) -> Generator[Event, None, None]:
        """Run `shards` and yield what happens, until each is committed or abandoned.

        To stop early, close the iterator: that ends the workers. Raises a worker's SvpError, or
        CacheError if no worker can start.
        """
        with self.connect(task, len(shards)) as pool, closing(pool):
            yield from Scheduler(pool, task, shards, max_tries, shard_timeout_s).events()


class Scheduler:
    """State of one run: queued and running jobs, attempts, searches, and what became of shards."""

    def __init__(
        self, pool: Pool, task: Task, shards: Sequence[int], max_tries: int, timeout: float | None
    ) -> None:
        self.pool, self.task = pool, task
        self.max_tries, self.timeout = max_tries, timeout
        self.queue = deque(Job(shard) for shard in shards)
        self.idle: set[int] = set()
        self.busy: dict[int, tuple[Job, float]] = {}  # worker -> job, when it was given
        self.tries = dict.fromkeys(shards, 0)
        self.searches: dict[int, PoisonSearch] = {}
        self.abandoned: set[int] = set()
        self.succeeded = False
        self.failed_starts = 0

    def events(self) -> Iterator[Event]:
        """Run until every shard is committed or abandoned."""
        yield Started(shards=len(self.queue), workers=self.pool.size)

        # Every round gives idle workers a job, hears what the others did, and ends those that take
        # too long; a failure puts jobs back into the queue. The tick lets the caller draw or stop.
        while self.queue or self.busy:
            self._dispatch()
            for event in self.pool.wait(TICK_S):
                yield from self._handle(event)
            yield from self._stop_hung_workers()
            yield Tick()
        yield Finished()

    def _dispatch(self) -> None:
        while self.queue and self.idle:
            worker, job = min(self.idle), self.queue.popleft()
            if job.shard in self.abandoned:
                continue  # a probe of a shard that was abandoned meanwhile
            self.idle.remove(worker)
            self.tries[job.shard] += job.rows is None
            self.busy[worker] = job, time.monotonic()
            self.pool.submit(worker, job)

    def _handle(self, event: Event) -> Iterator[Event]:
        worker = event.worker
        assert worker is not None, "an event of a pool is of one of its workers"
        match event:
            case Ready():
                self.failed_starts = 0
                self.idle.add(worker)
                yield event
            case BatchDone():
                # It may come late, when the worker has another job already.
                job, _ = self.busy.get(worker, (None, 0.0))
                if job is not None and job.rows is None and event.shard == job.shard:
                    yield event
            case Done():
                self.idle.add(worker)
                yield from self._commit(self.busy.pop(worker)[0], event)
            case Failed():
                if isinstance(event.error, SvpError):
                    raise event.error
                yield from self._replace_worker(worker, "worker_error", event.detail)
            case Died():
                yield event
                yield from self._replace_worker(worker, "worker_died", event.detail)

    def _stop_hung_workers(self) -> Iterator[Event]:
        if self.timeout is None:
            return
        now = time.monotonic()
        for worker in [w for w, (_, since) in self.busy.items() if now - since > self.timeout]:
            yield Hung(self.busy[worker][0].shard, worker)
            why = f"no result after {self.timeout:g} s"
            yield from self._replace_worker(worker, "worker_timeout", why)

    def _replace_worker(self, worker: int, reason: Reason, detail: str) -> Iterator[Event]:
        """Replace a worker that died, hung or failed, and retry the job it had."""
        self.idle.discard(worker)
        held = self.busy.pop(worker, None)

        # A worker without a job failed while it loaded the models: no shard can be blamed, and
        # replacing it for ever would hang the run.
        if held is None:
            self.failed_starts += 1
            if self.failed_starts >= self.max_tries * self.pool.size:
                raise CacheError(
                    f"workers stop before their first shard ({self.failed_starts} in a row), "
                    f"last: {shorten(detail, 1000)}. Check memory and weights with `svp doctor`"
                )
        self.pool.restart(worker)
        if held is not None:
            yield from self._retry_or_search(held[0], worker, reason, detail)

    def _commit(self, job: Job, event: Done) -> Iterator[Event]:
        if job.rows is not None:
            yield from self._continue_search(job, self.searches[job.shard].passed())
            return
        self.succeeded = True
        for row, reason in job.poison:
            yield Poisoned(job.shard, event.worker, row=row, reason=reason)
        yield event

    def _retry_or_search(
        self, job: Job, worker: int, reason: Reason, detail: str
    ) -> Iterator[Event]:
        search = self.searches.get(job.shard)

        # A failed probe narrows the search; it is not an attempt of its shard.
        if job.rows is not None and search:
            yield from self._continue_search(job, search.failed(job, reason))
            return
        yield Failed(job.shard, worker, shorten(detail, 1000), reason)
        if search:
            # The shard without the images found fails too: the images are not the cause.
            why = f"{reason} also after the search for bad images: {detail}"
            yield from self._abandon(job.shard, why)
        elif self.tries[job.shard] < self.max_tries:
            self.queue.append(job)
        else:
            yield SearchStarted(job.shard, worker, f"{reason} {self.max_tries} times")
            self.searches[job.shard] = search = PoisonSearch(job.shard, self.task.rows(job.shard))
            self.queue.extendleft(reversed(search.start()))

    def _continue_search(self, job: Job, probes: list[Job]) -> Iterator[Event]:
        self.queue.extendleft(reversed(probes))
        search = self.searches[job.shard]
        if job.shard in self.abandoned or not search.over:
            return
        if search.too_many_failures:
            why = "too many of its images stop their worker: the images are not the cause"
            yield from self._abandon(job.shard, why)
        else:
            self.queue.appendleft(search.result())

    def _abandon(self, shard: int, why: str) -> Iterator[Event]:
        self.abandoned.add(shard)
        event = Abandoned(shard, detail=shorten(why, 1000))
        yield event
        if not self.succeeded and len(self.abandoned) >= MAX_ABANDONED_BEFORE_FIRST_SUCCESS:
            raise CacheError(
                f"stopped: the first {MAX_ABANDONED_BEFORE_FIRST_SUCCESS} shards all failed, "
                f"last (shard {shard}): {event.detail}"
            )
