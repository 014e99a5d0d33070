"""Queue of the jobs of a run: attempts at shards, searches for images that crash their worker.

A failed shard is tried `max_tries` times. Then its images are bisected (`poison_search`): those that
crash their worker are quarantined and the rest is committed. A shard where none is found is tried
once more and then abandoned; the run continues with the others.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from ..display import shorten
from ..errors import CacheError
from .base import (
    Abandoned,
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


class ShardQueue:
    """Jobs that wait for a worker, and what is known of the shards; its length is that of the jobs.

    `done` and `failed` yield what became of a shard.
    """

    def __init__(self, task: Task, shards: Sequence[int], max_tries: int) -> None:
        self._task, self._max_tries = task, max_tries
        self._jobs = deque(Job(shard) for shard in shards)
        self._tries = dict.fromkeys(shards, 0)
        self._machines_lost: Counter[int] = Counter()
        self._searches: dict[int, PoisonSearch] = {}
        self._abandoned: set[int] = set()
        self._succeeded = False

    def __len__(self) -> int:
        return len(self._jobs)

    def take(self) -> Job | None:
        """The next job, which counts as an attempt; None if there is none."""
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
