"""Queue of the jobs of a run: attempts at shards, searches for images that crash their worker.

A failed shard is tried `max_tries` times. Then its images are bisected (`poison_search`): those that
crash their worker are quarantined and the rest is committed. A shard where none is found is tried
once more and then abandoned; the run continues with the others.

A shard of which another writer (of another kind of GPU, say) has made files with other bytes is put
back, as no attempt. What that writer commits stands: there is nothing left to do. If it was killed
before, its files are deleted by the attempt that finds them old enough (`cache.writer`).
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from ..display import shorten
from ..errors import CacheError
from .base import (
    Abandoned,
    Collided,
    Done,
    Event,
    Failed,
    Job,
    Poisoned,
    Reason,
    SearchStarted,
    Task,
)
from .false_starts import in_short
from .poison_search import PoisonSearch

MAX_MACHINES_LOST = 5  # with one shard: from then on its images may be what ends them
MAX_ABANDONED_BEFORE_FIRST_SUCCESS = 3  # then nothing works: the run stops
# Seconds after a collision, twice as long after each: together longer than files of a writer that
# was killed stay in the way, which is 20 minutes.
FIRST_PAUSE_S = 30.0
MAX_COLLISIONS = 6


class ShardQueue:
    """Jobs that wait for a worker, and what is known of the shards; its length is that of the jobs.

    `done`, `failed` and `collided` yield what became of a shard.

    clock  seconds, monotonic
    """

    def __init__(
        self,
        task: Task,
        shards: Sequence[int],
        max_tries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._max_tries, self._clock = task, max_tries, clock
        self._jobs = deque(Job(shard) for shard in shards)
        self._later: list[tuple[float, Job]] = []  # jobs with the time when they are due
        self._collisions: Counter[int] = Counter()
        self._tries = dict.fromkeys(shards, 0)
        self._machines_lost: Counter[int] = Counter()
        self._searches: dict[int, PoisonSearch] = {}
        self._abandoned: set[int] = set()
        self._succeeded = False

    def __len__(self) -> int:
        return len(self._jobs) + len(self._later)

    def take(self) -> Job | None:
        """The next job, which counts as an attempt; None if there is none now."""
        now = self._clock() if self._later else 0.0
        self._jobs.extend(job for due, job in self._later if due <= now)
        self._later = [(due, job) for due, job in self._later if due > now]
        while self._jobs:
            job = self._jobs.popleft()
            if job.shard not in self._abandoned:  # else a probe from before that
                self._tries[job.shard] += job.rows is None
                return job
        return None

    def give_back(self, job: Job) -> bool:
        """Put back a job that was lost with its machine, as no attempt; False: too often."""
        if self._machines_lost[job.shard] >= MAX_MACHINES_LOST:
            return False
        self._machines_lost[job.shard] += 1
        self._tries[job.shard] -= job.rows is None
        self._jobs.appendleft(job)
        return True

    def done(self, job: Job, event: Done) -> Iterator[Event]:
        """Record a job that succeeded."""
        if job.rows is not None:
            yield from self._continue_search(job, self._searches[job.shard].passed())
            return
        self._succeeded = True
        for row, reason in job.poison:
            yield Poisoned(job.shard, event.worker, row=row, reason=reason)
        yield event

    def collided(self, job: Job, event: Failed) -> Iterator[Event]:
        """Record an attempt that met another writer's files with other bytes."""
        shard = job.shard
        yield Collided(shard, event.worker, event.detail)
        self._collisions[shard] += 1
        if self._collisions[shard] > MAX_COLLISIONS:
            yield from self._abandon(shard, event.detail)
        else:
            pause = FIRST_PAUSE_S * 2 ** (self._collisions[shard] - 1)
            self._postpone(job, self._clock() + pause)

    def _postpone(self, job: Job, due: float) -> None:
        """Put back a job until the time `due`, as no attempt."""
        self._tries[job.shard] -= 1
        self._later.append((due, job))

    def failed(self, job: Job, worker: int, reason: Reason, detail: str) -> Iterator[Event]:
        """Record a job that failed. Raises CacheError if the first shards are all abandoned."""
        search = self._searches.get(job.shard)

        # A failed probe narrows the search; it is not an attempt of its shard.
        if job.rows is not None and search:
            yield from self._continue_search(job, search.failed(job, reason))
            return
        yield Failed(job.shard, worker, in_short(detail)[:2000], reason=reason)
        if search:
            # The shard without the images found fails too: the images are not the cause.
            why = f"{reason} also after the search for bad images: {in_short(detail)}"
            yield from self._abandon(job.shard, why)
        elif self._tries[job.shard] < self._max_tries:
            self._jobs.append(job)
        else:
            yield SearchStarted(job.shard, worker, f"{reason} {self._max_tries} times")
            self._searches[job.shard] = search = PoisonSearch(job.shard, self._task.rows(job.shard))
            self._jobs.extendleft(reversed(search.start()))

    def _continue_search(self, job: Job, probes: list[Job]) -> Iterator[Event]:
        self._jobs.extendleft(reversed(probes))
        search = self._searches[job.shard]
        if job.shard in self._abandoned or not search.over:
            return
        if search.too_many_failures:
            why = "too many of its images stop their worker: the images are not the cause"
            yield from self._abandon(job.shard, why)
        else:
            self._jobs.appendleft(search.result())

    def _abandon(self, shard: int, why: str) -> Iterator[Event]:
        self._abandoned.add(shard)
        event = Abandoned(shard, detail=shorten(why, 1000))
        yield event
        if not self._succeeded and len(self._abandoned) >= MAX_ABANDONED_BEFORE_FIRST_SUCCESS:
            raise CacheError(
                f"stopped: the first {MAX_ABANDONED_BEFORE_FIRST_SUCCESS} shards all failed, "
                f"last (shard {shard}): {event.detail}"
            )
