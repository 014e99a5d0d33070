"""`svp precompute --join`: any number of processes make one cache, without a driver.

Each takes the missing shards in an order of its own, claims one before it computes it, and ends when
every shard is committed or abandoned. Processes may come and go at any time.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..cache.create import require_no_other
from ..cache.layers import Layer
from ..cache.layout import exists, holds_cache, manifest_key
from ..cache.manifest import committed_shards
from ..cache.plan import Plan
from ..executors.base import Done, Event, Job, Task
from ..executors.shard_queue import ShardQueue
from ..store import Place, open_store
from .claims import LEASE_S, PLANNING, Claims, claims_store

log = logging.getLogger(__name__)

POLL_S = 0.5  # at least, between two looks at what others hold
LOOK_S = 30.0  # at least, between two listings of what is committed
SHARE = 20  # of the time between two looks, what a look may take


@contextmanager
def planning(cache: Place, check: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Hold the claim on the plan of a new cache: one process hashes the images, the others wait.

    check  called now and then; raises to end the wait

    Yields what the planner is to call instead. Raises CacheError if the folder holds something else.
    """
    with Claims(claims_store(cache)) as claims:
        waits = False
        while not holds_cache(cache):
            require_no_other(cache)
            if claims.take(PLANNING, bounded=False):
                break
            if not waits:
                log.info("another process makes the plan of this cache: waiting for it")
            waits = True
            check()
            time.sleep(POLL_S)

        def alive() -> None:
            check()
            claims.alive()

        yield alive
        claims.done(PLANNING)


def claims_on(cache: Place, plan: Plan, max_tries: int, hold_s: float) -> Claims:
    """The claims of this process on the shards of `plan`; see `Claims`."""
    claims = Claims(
        claims_store(cache, plan),
        max_tries=max_tries, lease_s=min(LEASE_S, hold_s), hold_s=hold_s,
    )  # fmt: skip
    claims.find_abandoned()
    return claims


class ClaimedQueue(ShardQueue):
    """Queue of the shards that this process claims; its length counts those of others as well.

    missing  shards that were missing when the run began, with the layers that lack them
    others   called with the number of images that other processes have committed since
    """

    def __init__(
        self,
        task: Task,
        missing: Mapping[int, Sequence[Layer]],
        max_tries: int,
        claims: Claims,
        cache: Place,
        others: Callable[[int], None] = lambda images: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(task, (), max_tries, clock)
        self._claims, self._cache, self._others = claims, open_store(cache), others
        self._last = {shard: layers[-1] for shard, layers in missing.items()}  # layer written last
        self._open = set(missing)  # neither seen to be committed nor claimed or abandoned here
        self._due: dict[
            int, float
        ] = {}  # those of the open shards that this process leaves till then
        self._order = deque(claims.order(self._open))
        self._look_at = clock() + LOOK_S
        self._poll_at = 0.0

    def __len__(self) -> int:
        return super().__len__() + len(self._open)

    def take(self) -> Job | None:
        """The next job of a shard that is claimed already, or of one that is claimed now."""
        if (job := super().take()) is None and (shard := self._claim()) is not None:
            self._tries[shard] = 0
            self._jobs.append(Job(shard))
            job = super().take()
        return job

    def done(self, job: Job, event: Done) -> Iterator[Event]:
        """Record a job that succeeded; a committed shard needs no claim any more."""
        yield from super().done(job, event)
        if job.rows is None:
            self._claims.done(str(job.shard))

    def _abandon(self, shard: int, why: str) -> Iterator[Event]:
        self._claims.fail(str(shard), why)
        yield from super()._abandon(shard, why)

    def _postpone(self, job: Job, due: float) -> None:
        # Another process may be of the kind that computes the bytes that are there.
        self._claims.give_back(str(job.shard))
        self._searches.pop(job.shard, None)
        self._due[job.shard] = due
        self._open.add(job.shard)

    def _claim(self) -> int | None:
        """A shard that this process claims; None if others have all that are left."""
        began = self._clock()
        if not self._order and began < self._poll_at:
            return None
        if not self._order or began >= self._look_at:
            self._forget(self._committed())
            # Of a very large cache a listing takes longer, and is done more rarely.
            self._look_at = began + max(LOOK_S, SHARE * (self._clock() - began))
            self._order = self._order or deque(self._claims.order(self._open))
        while self._order:
            if (shard := self._order.popleft()) not in self._open:
                continue
            if shard in self._due and self._clock() < self._due[shard]:
                continue
            if self._claims.take(str(shard)):
                if not exists(self._cache, manifest_key(self._last[shard].folder, shard)):
                    self._open.remove(shard)
                    return shard
                self._claims.done(str(shard))  # it was committed before the claim
                self._forget([shard])
            elif str(shard) in self._claims.abandoned:
                self._open.remove(shard)
        wait = max(POLL_S, SHARE * (self._clock() - began))
        self._poll_at = began + min(wait, self._claims.lease_s / 2)
        return None

    def _committed(self) -> set[int]:
        """Those of the open shards that are committed by now."""
        done: set[int] = set()
        for layer in {layer.folder: layer for layer in self._last.values()}.values():
            there = committed_shards(self._cache, layer)
            done.update(
                s for s in there if s in self._open and self._last[s].folder == layer.folder
            )
        return done

    def _forget(self, shards: Collection[int]) -> None:
        """Strike out shards that other processes have committed."""
        self._open.difference_update(shards)
        if shards:
            self._others(sum(map(self._task.rows, shards)))
