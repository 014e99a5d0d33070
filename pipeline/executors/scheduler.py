"""The scheduler all executors share: who does what, and what happens when it goes wrong.

A failed shard is tried `max_tries` times, each on a fresh worker. Then its images are bisected
(`hunt`): those that kill their worker are quarantined and the rest is committed. A shard without a
culprit gets one more try and is then parked; the run goes on. An `SvpError` from a worker (disk
full, wrong weights) is nobody's bad luck: it ends the run at once.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing

from ..display import shorten
from ..errors import CacheError, SvpError
from .base import Event, EventKind, ExecutorOptions, Job, Outcome, Pool, Reason, Summary, Task
from .poison_search import Hunt

TICK_S = 0.2
HOPELESS = 3  # shards parked before the first one succeeded: stop, nothing works


class DrivenExecutor(ABC):
    """An `Executor` that is a way to get a pool: the rest is `drive`."""

    def __init__(self, options: ExecutorOptions) -> None:
        self.options = options

    @abstractmethod
    def connect(self, task: Task, shards: int) -> AbstractContextManager[Pool]:
        """A pool for `shards` shards; leaving the context ends what was started, and only that."""

    def run(
        self,
        task: Task,
        shards: Sequence[int],
        on_event: Callable[[Event], None],
        *,
        max_tries: int = 3,
        shard_timeout_s: float | None = None,
    ) -> Summary:
        """See `Executor` and `drive`."""
        with self.connect(task, len(shards)) as pool:
            return drive(
                pool, task, shards, on_event, max_tries=max_tries, shard_timeout_s=shard_timeout_s
            )


def drive(
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
        run = _Run(pool, task, shards, on_event, max_tries, shard_timeout_s)
        return run.loop()


class _Run:
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
        self.hunts: dict[int, Hunt] = {}
        self.done: list[int] = []
        self.parked: dict[int, str] = {}
        self.poison: list[tuple[int, int, Reason]] = []
        self.false_starts = self.deaths = self.timeouts = 0

    def loop(self) -> Summary:
        began = time.monotonic()
        if hasattr(self.pool, "listen"):  # its jobs run inside `wait`: nothing comes out of it
            self.pool.listen = self._hear
        self._tell("started", result={"shards": len(self.queue), "workers": self.pool.size})
        while self.queue or self.busy:
            self._dispatch()
            for outcome in self.pool.wait(TICK_S):
                self._handle(outcome)
            self._end_hung()
            self._tell("tick")
        self._tell("finished")
        return Summary(
            done=tuple(self.done),
            parked=self.parked,
            poison=tuple(self.poison),
            tries={shard: tries for shard, tries in self.tries.items() if tries > 1},
            deaths=self.deaths,
            timeouts=self.timeouts,
            seconds=time.monotonic() - began,
        )

    def _dispatch(self) -> None:
        while self.queue and self.idle:
            worker, job = min(self.idle), self.queue.popleft()
            if job.shard in self.parked:
                continue  # a probe of a shard that was given up meanwhile
            self.idle.remove(worker)
            self.tries[job.shard] += job.rows is None
            self.busy[worker] = job, time.monotonic()
            self.pool.submit(worker, job)

    def _handle(self, outcome: Outcome) -> None:
        worker = outcome.worker
        match outcome.kind:
            case "ready":
                self.false_starts = 0
                self.idle.add(worker)
                self._tell("worker_ready", worker=worker)
            case "progress":
                job, _ = self.busy.get(worker, (None, 0.0))
                if job is not None and job.rows is None and outcome.value.get("shard") == job.shard:
                    self._tell("progress", job.shard, worker, result=outcome.value)
            case "done":
                self.idle.add(worker)
                self._finish(self.busy.pop(worker)[0], worker, outcome)
            case "raised" | "refused":
                if isinstance(outcome.error, SvpError):
                    raise outcome.error
                self._lose(worker, "worker_error", outcome.detail)
            case "died":
                self.deaths += 1
                self._tell("worker_died", worker=worker, detail=outcome.detail)
                self._lose(worker, "worker_died", outcome.detail)

    def _hear(self, outcome: Outcome) -> None:
        self._handle(outcome)
        self._tell("tick")

    def _end_hung(self) -> None:
        if self.timeout is None:
            return
        now = time.monotonic()
        for worker in [w for w, (_, since) in self.busy.items() if now - since > self.timeout]:
            self.timeouts += 1
            self._tell("worker_hung", self.busy[worker][0].shard, worker)
            self._lose(worker, "worker_timeout", f"no result after {self.timeout:g} s")

    def _lose(self, worker: int, reason: Reason, detail: str) -> None:
        """A worker is lost or no longer trusted: replace it and see to the job it had."""
        self.idle.discard(worker)
        held = self.busy.pop(worker, None)
        if held is None:
            self.false_starts += 1
            if self.false_starts >= self.max_tries * self.pool.size:
                raise CacheError(
                    f"workers stop before their first shard ({self.false_starts} in a row), "
                    f"last: {shorten(detail, 1000)}. Check memory and weights with `svp doctor`"
                )
        self.pool.restart(worker)
        if held is not None:
            self._fail(held[0], worker, reason, detail)

    def _finish(self, job: Job, worker: int, outcome: Outcome) -> None:
        if job.rows is not None:
            self._advance(job, self.hunts[job.shard].passed())
            return
        self.done.append(job.shard)
        for row, reason in job.poison:
            self.poison.append((job.shard, row, reason))
            self._tell("image_poison", job.shard, worker, result={"row": row, "reason": reason})
        self._tell("shard_done", job.shard, worker, result=outcome.value)

    def _fail(self, job: Job, worker: int, reason: Reason, detail: str) -> None:
        hunt = self.hunts.get(job.shard)
        if job.rows is not None and hunt:
            self._advance(job, hunt.failed(job, reason))
            return
        self._tell("shard_failed", job.shard, worker, shorten(detail, 1000), {"reason": reason})
        if hunt:
            self._park(job.shard, f"{reason} also after the search for bad images: {detail}")
        elif self.tries[job.shard] < self.max_tries:
            self.queue.append(job)
        else:
            self._tell("shard_hunt", job.shard, worker, f"{reason} {self.max_tries} times")
            self.hunts[job.shard] = hunt = Hunt(job.shard, self.task.rows(job.shard))
            self.queue.extendleft(reversed(hunt.start()))

    def _advance(self, job: Job, probes: list[Job]) -> None:
        self.queue.extendleft(reversed(probes))
        hunt = self.hunts[job.shard]
        if job.shard in self.parked or not hunt.over:
            return
        if hunt.hopeless:
            self._park(job.shard, "too many of its images stop their worker: it is not the images")
        else:
            self.queue.appendleft(hunt.verdict())

    def _park(self, shard: int, why: str) -> None:
        self.parked[shard] = shorten(why, 1000)
        self._tell("shard_parked", shard, detail=self.parked[shard])
        if not self.done and len(self.parked) >= HOPELESS:
            raise CacheError(
                f"stopped: the first {HOPELESS} shards all failed, "
                f"last (shard {shard}): {self.parked[shard]}"
            )

    def _tell(
        self,
        kind: EventKind,
        shard: int | None = None,
        worker: int | None = None,
        detail: str = "",
        result: Mapping[str, object] | None = None,
    ) -> None:
        self.on_event(Event(kind, shard, worker, detail, result or {}))
