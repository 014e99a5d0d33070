"""The scheduler of all executors: give the jobs of a `ShardQueue` to workers, and replace workers.

A shard is tried again on a fresh worker. An `SvpError` from a worker (disk full, wrong weights) would
recur on every shard: it ends the run, unless it says that another writer has computed other bytes
of this one.

A worker that ends before it is ready is started again after a pause (`false_starts`), or left out.
On a cluster a place where no worker gets ready, or where another svp or another library would
compute other bytes, is left out and named; the run ends only when too few workers are ready and
none came for a while. A job lost with its machine is given out again: that is no attempt.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing

from ..display import counted, duration
from ..errors import CacheError, SvpError
from ..store import OtherBytesError
from .base import (
    BatchDone,
    Died,
    Done,
    Draining,
    Event,
    ExecutorOptions,
    Failed,
    FalseStart,
    Finished,
    Hung,
    Job,
    LeftOut,
    Pool,
    Ready,
    Reason,
    Refused,
    Requeued,
    Started,
    Task,
    Tick,
)
from .false_starts import FalseStarts, in_short
from .shard_queue import ShardQueue

TICK_S = 0.2
MAX_JOBS_FAILED = 3  # in a row in one place of a cluster


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
        queue: ShardQueue | None = None,
    ) -> Generator[Event, None, None]:
        """Run `shards` and yield what happens, until each is committed or abandoned.

        queue  of these shards; None: one that has them all to itself

        To stop early, close the iterator: that ends the workers. Raises a worker's SvpError, or
        CacheError if no worker can start.
        """
        with self.connect(task, len(shards)) as pool, closing(pool):
            yield from Scheduler(
                pool,
                task,
                shards,
                max_tries,
                shard_timeout_s,
                least=self.options.least_workers,
                patience=self.options.worker_timeout_s,
                queue=queue,
            ).events()


class Scheduler:
    """State of one run: workers, the jobs they have, and the queue of the others.

    least     fewer ready workers than that for `patience` seconds end the run
    clock     seconds, monotonic
    """

    def __init__(
        self,
        pool: Pool,
        task: Task,
        shards: Sequence[int],
        max_tries: int,
        timeout: float | None,
        *,
        least: int = 1,
        patience: float = 900.0,
        clock: Callable[[], float] = time.monotonic,
        queue: ShardQueue | None = None,
    ) -> None:
        self.pool, self.timeout = pool, timeout
        self.least, self.patience, self.clock = least, patience, clock
        self.queue = ShardQueue(task, shards, max_tries, clock) if queue is None else queue

        # Every worker that was started is idle, busy, resting until its next start, out for good,
        # or else loading its models.
        self.workers = 0
        self.idle: set[int] = set()
        self.busy: dict[int, tuple[Job, float]] = {}  # worker -> job, when it was given
        self.resting: dict[int, float] = {}  # worker -> when it is started again
        self.out: set[int] = set()
        self.leaving: set[int] = set()  # workers that are to end with their job
        self.stopped: set[int] = set()  # by an earlier event of the same round: later ones are old
        self.places: dict[int, str] = {}  # worker -> where it was ready last
        self.failures: Counter[str] = Counter()  # place -> jobs in a row
        self.starts = FalseStarts(clock)
        self.staffed = clock()  # when enough workers were ready

    def events(self) -> Iterator[Event]:
        """Run until every shard is committed or abandoned."""
        yield Started(shards=len(self.queue), workers=min(self.pool.capacity(), len(self.queue)))

        # Every round gives idle workers a job, hears what the others did, and ends those that take
        # too long; a failure puts jobs back into the queue. The tick lets the caller draw or stop.
        while self.queue or self.busy:
            self._start_workers()
            self._dispatch()
            self.stopped.clear()
            for event in self.pool.wait(TICK_S):
                if event.worker not in self.stopped:
                    yield from self._handle(event)
            yield from self._stop_hung_workers()
            self._require_workers()
            yield Tick()
        yield Finished()

    def _start_workers(self) -> None:
        """Start workers as far as capacity goes, and those whose pause is over."""
        now = self.clock()
        for worker in [worker for worker, due in self.resting.items() if due <= now]:
            del self.resting[worker]
            self._start(worker)
        while self.workers < min(self.pool.capacity(), len(self.queue) + len(self.busy)):
            self.workers += 1
            self._start(self.workers - 1)

    def _start(self, worker: int) -> None:
        self.starts.began(worker)
        self.pool.start(worker)

    def _restart(self, worker: int) -> None:
        self._stop(worker)
        self._start(worker)

    def _stop(self, worker: int) -> None:
        self.idle.discard(worker)
        self.leaving.discard(worker)
        self.stopped.add(worker)
        self.pool.stop(worker)

    def _leave(self, worker: int) -> None:
        """Let the worker finish what it has, then start it again in another place."""
        self.leaving.add(worker)
        if worker not in self.busy:
            self._restart(worker)

    def _require_workers(self) -> None:
        """Raise CacheError if too few workers are ready, and no other can be expected."""
        ready, now = len(self.idle) + len(self.busy), self.clock()
        if ready >= min(self.least, len(self.queue) + len(self.busy)):
            self.staffed = now
            return
        ended = not self.pool.elastic and len(self.out) == self.workers
        if not ended and now - self.staffed < self.patience:
            return
        waited = "" if ended else f", and none came for {duration(now - self.staffed)}"
        count = counted(ready, "worker", "are") if ready else "no worker is"
        wanted = f" of at least {self.least}" if self.least > 1 else ""
        causes = self.starts.summary() or f"No machine took one: each asks for {self.pool.asks}"
        raise CacheError(
            f"{count} ready{wanted}{waited}. {causes}. Committed shards are kept: "
            "mend the cause (`svp doctor` checks a machine) and give the same command again"
        )

    def _release(self, worker: int) -> Job:
        """Take the job from a worker that is sound and can have another one."""
        job, _ = self.busy.pop(worker)
        self.failures[self.places[worker]] = 0
        if worker in self.leaving:
            self._restart(worker)
        else:
            self.idle.add(worker)
        return job

    def _dispatch(self) -> None:
        while self.idle and (job := self.queue.take()):
            worker = min(self.idle)
            self.idle.remove(worker)
            self.busy[worker] = job, self.clock()
            self.pool.submit(worker, job)

    def _handle(self, event: Event) -> Iterator[Event]:
        worker = event.worker
        assert worker is not None, "an event of a pool is of one of its workers"
        match event:
            case Ready():
                self.places[worker] = _place(event)
                self.starts.ready(_place(event))
                self.idle.add(worker)
                yield event
            case BatchDone():
                # It may come late, when the worker has another job already.
                job, _ = self.busy.get(worker, (None, 0.0))
                if job is not None and job.rows is None and event.shard == job.shard:
                    yield event
            case Done():
                yield from self.queue.done(self._release(worker), event)
            case Draining():
                yield event
                self._leave(worker)
            case Refused():
                if not self.pool.elastic:
                    raise CacheError(event.detail)
                yield event
                yield from self._false_start(event, final=True)
            case Failed(error=OtherBytesError()) if worker in self.busy:
                yield from self.queue.collided(self._release(worker), event)
            case Failed():
                # While it loads its models: on a cluster the machine may lack a file or a mount.
                started = worker in self.busy or not self.pool.elastic
                if isinstance(event.error, SvpError) and started:
                    raise event.error
                yield from self._replace_worker(event, "worker_error")
            case Died():
                yield event
                yield from self._replace_worker(event, "worker_died")

    def _stop_hung_workers(self) -> Iterator[Event]:
        if self.timeout is None:
            return
        now = self.clock()
        for worker in [w for w, (_, since) in self.busy.items() if now - since > self.timeout]:
            event = Hung(self.busy[worker][0].shard, worker, f"no result after {self.timeout:g} s")
            yield event
            yield from self._replace_worker(event, "worker_timeout")

    def _replace_worker(self, event: Event, reason: Reason) -> Iterator[Event]:
        """Replace a worker that died, hung or failed, and retry the job it had."""
        worker, detail = event.worker, event.detail
        assert worker is not None
        held = self.busy.pop(worker, None)
        if held is None and worker not in self.idle:
            # It failed while it loaded the models: no shard can be blamed.
            final = isinstance(event, Failed) and event.error is not None
            yield from self._false_start(event, final=final)
            return
        self._restart(worker)
        if held is None:
            return
        job, _ = held
        if isinstance(event, Died) and event.machine and self.queue.give_back(job):
            yield Requeued(job.shard, worker, in_short(detail))
            return
        yield from self.queue.failed(job, worker, reason, detail)
        yield from self._judge(self.places[worker], worker, detail)

    def _judge(self, place: str, worker: int, detail: str) -> Iterator[Event]:
        """Leave out a place where job after job fails while other places are at work.

        A machine that fails fast is always idle first: it would use up the attempts of all shards.
        """
        self.failures[place] += 1
        ready = self.idle | self.busy.keys()
        if (
            not self.pool.elastic
            or self.failures[place] < MAX_JOBS_FAILED
            or all(self.places[other] == place for other in ready)
        ):
            return
        self.failures[place] = 0
        self.starts.left_out[place] = cause = in_short(detail)
        self.pool.avoid(place)
        why = f"{place}: {MAX_JOBS_FAILED} jobs in a row failed, last: {cause}"
        yield LeftOut(worker=worker, detail=why, place=place)
        for other in [other for other in ready if self.places[other] == place]:
            self._leave(other)
        self._restart(worker)  # the one that was just started again may be there too

    def _false_start(self, event: Event, *, final: bool) -> Iterator[Event]:
        """Let the worker rest; leave it or its place out where none gets ready."""
        worker, place, cause = event.worker, _place(event), in_short(event.detail)
        assert worker is not None
        self._stop(worker)
        known = place in self.starts.left_out
        # Of a cluster's worker that was nowhere yet, no machine is to blame.
        somewhere = bool(event.place) or not self.pool.elastic
        pause = self.starts.failed(worker, place, cause, final=final, leave_out=somewhere)
        left_out = place in self.starts.left_out
        if left_out and not known:
            self.pool.avoid(place)
            yield LeftOut(worker=worker, detail=f"{place}: {cause}", place=event.place)
        elif not left_out:
            yield FalseStart(worker=worker, detail=f"{place}: {cause}", place=event.place)
        if left_out and not self.pool.elastic:
            self.out.add(worker)
        else:
            self.resting[worker] = self.clock() + (0 if left_out else pause)


def _place(event: Event) -> str:
    """Place of a worker, or the worker itself where the pool knows of no places."""
    return event.place or f"worker {event.worker}"
