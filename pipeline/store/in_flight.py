"""Ranges of objects read with many requests in flight, from one event loop per process.

A store answers after 10 to 50 ms: 64 requests at once give ten times the rate of two threads. The
slowest request decides when a batch is there, so one that takes far longer than the others is asked
for a second time, and the first answer counts (hedging: Dean and Barroso, "The Tail at Scale").
"""

import asyncio
import atexit
import random
import time
from collections import deque
from collections.abc import Sequence
from statistics import median
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from .object_client import (
    Fault,
    RetryPolicy,
    client,
    note_request,
    read_fault,
    request_errors,
)
from .protocol import Read, cut_short

if TYPE_CHECKING:
    from obstore.store import ObjectStore

IN_FLIGHT = 64
LET_GO = 0.05  # seconds at the end of the process
# A request is asked for again after this many medians, at most for one request in twenty: where all
# are slow, more requests would make it worse.
HEDGE_MEDIANS, HEDGE_LEAST, HEDGE_UNKNOWN, HEDGE_SHARE, HEDGE_BURST = 4.0, 0.05, 2.0, 0.05, 8.0


class Hedging:
    """Delay and budget of second requests, from the durations of the last ones (seconds)."""

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=128)
        self._delay, self._since = HEDGE_UNKNOWN, 0
        self._budget = HEDGE_BURST

    @property
    def delay(self) -> float:
        """Seconds after which a request counts as slow."""
        return self._delay

    def record(self, seconds: float) -> None:
        """One request has been answered."""
        self._durations.append(seconds)
        self._budget = min(HEDGE_BURST, self._budget + HEDGE_SHARE)
        self._since += 1
        if self._since >= 16:
            self._since = 0
            self._delay = max(HEDGE_LEAST, HEDGE_MEDIANS * median(self._durations))

    def take(self) -> bool:
        """Whether a second request may be made now."""
        if self._budget < 1:
            return False
        self._budget -= 1
        return True


class Failed(Exception):
    """A read whose request failed for good; caught by the store, which names the file."""

    def __init__(self, read: Read, fault: Fault) -> None:
        super().__init__(fault.cause)
        self.read, self.fault = read, fault


class _Loop:
    """The event loop of this process, in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate = asyncio.Semaphore(IN_FLIGHT)
        self.hedging: dict[str, Hedging] = {}
        Thread(target=self.loop.run_forever, name="svp-store", daemon=True).start()
        # The client's threads let go of Python objects a moment after an answer. One that waits for
        # an interpreter that has ended aborts the process.
        atexit.register(time.sleep, LET_GO)


_lock = Lock()
_loops: list[_Loop] = []  # one, from the first read on


def read_all(
    address: str, prefix: str, reads: Sequence[Read], policy: RetryPolicy, where: str
) -> None:
    """Fill the views of all `reads` from bucket `address`.

    prefix, where  what stands before a key in the bucket, and in messages

    Raises Failed for a request that failed for good, CacheError for an object that ends too early.
    No view is written after the return.
    """
    store = client(address, policy.stall)  # here: a forked process must not reach the loop
    with _lock:
        if not _loops:
            _loops.append(_Loop())
    running, ended = _loops[0], Event()
    hedging = running.hedging.setdefault(address, Hedging())

    async def fill_all() -> None:
        try:
            # The group cancels the others on the first error, and ends when all have ended.
            async with asyncio.TaskGroup() as group:
                for read in reads:
                    work = _fill(store, prefix, read, policy, where, running.gate, hedging)
                    group.create_task(work)
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(fill_all(), running.loop)
    try:
        future.result()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    except BaseException:  # a signal: the views are the caller's again only when nobody fills them
        future.cancel()
        ended.wait(timeout=5)
        raise


async def _fill(
    store: "ObjectStore",
    prefix: str,
    read: Read,
    policy: RetryPolicy,
    where: str,
    gate: asyncio.Semaphore,
    hedging: Hedging,
) -> None:
    size = read.bytes
    if not size:
        return
    started, wait = time.monotonic(), policy.first_wait
    while True:
        try:
            async with gate:
                data = await _hedged(store, prefix + read.key, read.offset, size, hedging)
            break
        except request_errors() as error:
            fault = read_fault(error)
        if fault.kind == "range":
            raise cut_short(f"{where}{read.key}", read, 0)
        if not fault.repeat(time.monotonic() - started, policy):
            raise Failed(read, fault)
        await asyncio.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, policy.longest_wait)
    found = memoryview(data)
    if len(found) != size:
        raise cut_short(f"{where}{read.key}", read, len(found))
    done = 0
    for view in read.views:
        view[:] = found[done : done + len(view)]
        done += len(view)


async def _hedged(store: "ObjectStore", key: str, offset: int, size: int, hedging: Hedging) -> Any:
    from obstore import get_range_async

    started: dict[asyncio.Future[Any], float] = {}

    def ask() -> asyncio.Future[Any]:
        note_request()
        # A future that runs already: a task around it would take time for nothing.
        asked = asyncio.ensure_future(get_range_async(store, key, start=offset, length=size))
        started[asked] = time.monotonic()
        return asked

    first = ask()
    try:
        await asyncio.wait([first], timeout=hedging.delay)
        if not first.done() and hedging.take():
            ask()
        rest = set(started)
        while True:
            done = {asked for asked in rest if asked.done()}
            if not done:
                done, rest = await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
            rest = rest - done
            good = next((asked for asked in done if not asked.exception()), None)
            if good:
                hedging.record(time.monotonic() - started[good])
            if good or not rest:
                return (good or done.pop()).result()
    finally:
        for asked in started:
            asked.cancel()
