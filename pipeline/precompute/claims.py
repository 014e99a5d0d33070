"""Claims on shards: what keeps processes that share a cache from computing the same.

A process creates `logs/claims/<plan>/<shard>.json` before it computes a shard, renews it while it
works and deletes it after the commit. A claim that another process has seen unchanged for a lease is
stale: its holder was killed, and the observer replaces it. Only times of one clock are compared, so
the clocks of the machines may differ. Claims save work, no more: where two processes hold one shard
(the holder was slow, a file system has no locks) both compute equal bytes.

A claim also counts what befell earlier holders. A shard whose holders ended `MAX_MACHINES_LOST`
times, or that `max_tries` processes abandoned, is abandoned by all.
"""

import os
import platform
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Self
from uuid import uuid4

import psutil
import xxhash
from pydantic import Field

from ..cache.layout import CLAIMS, LOGS
from ..cache.plan import Plan
from ..display import counted, shorten
from ..errors import CacheError, MissingError
from ..executors.shard_queue import MAX_MACHINES_LOST
from ..io.atomic import machine
from ..io.json_files import JsonFile, canonical, parse_checked
from ..store import ChangedError, OtherBytesError, Place, Store, open_store

PLANNING = "plan"  # name of the claim of the process that makes the plan
LEASE_S = 180.0  # seconds without a renewal until a claim is stale
RENEWALS = 6  # in that time
HOLD_S = 6 * 3600.0  # seconds for one shard where no time limit is given
MAX_BYTES = 1 << 14

Count = Annotated[int, Field(ge=0, lt=1 << 31)]
Text = Annotated[str, Field(max_length=1000)]


class Claim(JsonFile):
    """The content of a claim.

    holder     machine, process and a random part; empty: released, kept for its counts
    since      when it was claimed and `renewed`, by the holder's clock: shown, never compared
    lost       holders that were killed while they had the shard
    failed     processes that abandoned the shard
    abandoned  cause for which no process may claim it any more; empty: one may
    """

    holder: Text = ""
    host: Text = ""
    pid: Count = 0
    since: Text = ""
    renewed: Text = ""
    lost: Count = 0
    failed: Count = 0
    abandoned: Text = ""

    def data(self) -> bytes:
        """The bytes of the file."""
        return canonical(self.model_dump(mode="json"))


def claims_store(cache: Place, plan: Plan | None = None) -> Store:
    """The store of the claims on the shards of `plan`, or of those on a plan to be made."""
    store = open_store(cache).sub(f"{LOGS}/{CLAIMS}")
    return store if plan is None else store.sub(plan.id[:16])


def read_claims(store: Store) -> dict[str, Claim]:
    """Every claim that can be read, by its name, which is the number of the shard."""
    found = {}
    for key, _ in store.sizes():
        name, dot, kind = key.rpartition(".")
        if dot and kind == "json" and (claim := _read(store, name)[0]):
            found[name] = claim
    return found


def clear_claims(cache: Place, plan: Plan) -> None:
    """Delete the claims on the shards of a plan that is complete."""
    store = claims_store(cache, plan)
    for key, _ in [*store.sizes()]:
        store.delete(key)
    claims_store(cache).delete(_key(PLANNING))
    store.tidy()


class Claims:
    """Claims of this process: `with Claims(...) as claims` renews them and gives them back.

    max_tries  processes that may abandon a shard before all do
    lease_s    seconds without a change until a claim of another process is stale
    hold_s     seconds without `alive` until this process's claims are no longer renewed
    clock      seconds, monotonic

    Attributes: `abandoned`, names that no process may claim any more, with the cause.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_tries: int = 3,
        lease_s: float = LEASE_S,
        hold_s: float = HOLD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.abandoned: dict[str, str] = {}
        self.lease_s = lease_s
        self._store, self._max_tries, self._clock = store, max_tries, clock
        self._hold, self._alive = hold_s, clock()
        self._machine, self._pid = machine(), os.getpid()
        self._holder = f"{self._machine}-{self._pid}-{uuid4().hex[:12]}"
        self._held: dict[str, tuple[Claim, str]] = {}  # with the tag of its file
        self._seen: dict[str, tuple[str, float]] = {}  # tag of another's claim, when first seen
        self._lock = threading.Lock()  # over `_held`
        self._over = threading.Event()
        self._renewer = threading.Thread(target=self._renew_always, daemon=True, name="svp-claims")

    def __enter__(self) -> Self:
        self._renewer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._renewer.join()
        for name in [*self._held]:
            with suppress(CacheError):  # the next process takes it once it is stale
                self.give_back(name)

    def alive(self) -> None:
        """Note that the run is at work: without this its claims end with `hold_s`."""
        self._alive = self._clock()

    def order(self, shards: Collection[int]) -> list[int]:
        """`shards` in the order of this process, another one for each process."""
        return sorted(
            shards, key=lambda s: xxhash.xxh3_64_intdigest(f"{self._holder}/{s}".encode())
        )

    def take(self, name: str, *, bounded: bool = True) -> bool:
        """Claim `name`; False if another process has it, or if it is abandoned.

        bounded  whether it can be abandoned

        Raises CacheError if the store refuses.
        """
        claim, tag = _read(self._store, name)
        now = _now()
        mine = Claim(
            holder=self._holder, host=platform.node(), pid=self._pid, since=now, renewed=now
        )
        if not tag:
            with suppress(OtherBytesError):
                self._store.create(_key(name), [mine.data()], who=mine.holder)
            claim, tag = _read(self._store, name)
            if claim != mine:  # another process was first
                return False
        else:
            if claim is None:
                free = self._unchanged(name, tag)  # damaged: its holder would renew it
            elif bounded and claim.abandoned:
                self.abandoned[name] = claim.abandoned
                free = False
            else:
                free = not claim.holder or self._stale(name, claim, tag)
            if not free:
                return False
            if claim is not None:
                lost = claim.lost + bool(claim.holder)
                mine = mine.model_copy(update={"lost": lost, "failed": claim.failed})
            if bounded and mine.lost >= MAX_MACHINES_LOST:
                mine = Claim(lost=mine.lost, failed=mine.failed, abandoned=(
                    f"{counted(mine.lost, 'process')} ended while they computed it, without a "
                    "message: not enough memory, or an image that crashes the process"
                ))  # fmt: skip
            try:
                tag = self._store.replace(_key(name), mine.data(), if_match=tag)
            except ChangedError:
                return False
            if mine.abandoned:
                self.abandoned[name] = mine.abandoned
                return False
        with self._lock:
            self._held[name] = mine, tag
        return True

    def done(self, name: str) -> None:
        """End this process's claim of what is committed."""
        self._end(name, None)

    def give_back(self, name: str) -> None:
        """End this process's claim: others may take it at once."""
        claim, _ = self._held.get(name, (Claim(), ""))
        counts = Claim(lost=claim.lost, failed=claim.failed)
        self._end(name, counts if counts != Claim() else None)

    def fail(self, name: str, cause: str) -> None:
        """End this process's claim of a shard that it abandons, and with `max_tries` all do."""
        claim, _ = self._held.get(name, (Claim(), ""))
        failed = claim.failed + 1
        cause = shorten(cause, 900) if failed >= self._max_tries else ""
        if cause:
            self.abandoned[name] = cause
        self._end(name, Claim(lost=claim.lost, failed=failed, abandoned=cause))

    def find_abandoned(self) -> None:
        """Add to `abandoned` what has been abandoned before."""
        for name, claim in read_claims(self._store).items():
            if claim.abandoned:
                self.abandoned[name] = claim.abandoned

    def _end(self, name: str, left: Claim | None) -> None:
        """Delete the claim, or replace it with `left`; of another process now, it stays."""
        with self._lock:
            _, tag = self._held.pop(name, (None, ""))
            if tag:
                with suppress(ChangedError):
                    self._change(name, left, tag)

    def _change(self, name: str, claim: Claim | None, tag: str) -> str:
        """Replace the file of this process's claim, or with None delete it; its new tag.

        Raises ChangedError if another process has it.
        """

        def change(tag: str) -> str:
            if claim is None:
                self._store.delete(_key(name), if_match=tag)
                return ""
            return self._store.replace(_key(name), claim.data(), if_match=tag)

        try:
            return change(tag)
        except ChangedError:
            # A renewal that failed may have been carried out: the file is ours, with another tag.
            there, found = _read(self._store, name)
            if there is None or there.holder != self._holder:
                raise
            return change(found)

    def _stale(self, name: str, claim: Claim, tag: str) -> bool:
        """Whether the holder of another's claim is gone."""
        theirs, _, _ = claim.holder.partition("-")
        if theirs == self._machine and not psutil.pid_exists(claim.pid):
            return True
        return self._unchanged(name, tag)

    def _unchanged(self, name: str, tag: str) -> bool:
        """Whether a file had this tag for a whole lease, by the clock of this process."""
        now = self._clock()
        if self._seen.get(name, ("", 0.0))[0] != tag:
            self._seen[name] = tag, now
        return now - self._seen[name][1] >= self.lease_s

    def _renew_always(self) -> None:
        while not self._over.wait(self.lease_s / RENEWALS):
            self.renew()

    def renew(self) -> None:
        """Renew the claims of this process; those that were taken over are forgotten."""
        if self._clock() - self._alive >= self._hold:
            return
        for name in [*self._held]:
            with self._lock, suppress(CacheError):  # the store refuses: it may not the next time
                if name not in self._held:
                    continue
                claim, tag = self._held[name]
                claim = claim.model_copy(update={"renewed": _now()})
                try:
                    self._held[name] = claim, self._change(name, claim, tag)
                except ChangedError:
                    del self._held[name]


def _key(name: str) -> str:
    return f"{name}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read(store: Store, name: str) -> tuple[Claim | None, str]:
    """A claim and its file's tag; "" if there is none, no claim if it is damaged."""
    try:
        data, tag = store.read_tagged(_key(name), MAX_BYTES)
        return parse_checked(Claim, data, store.where(_key(name))), tag
    except MissingError:
        return None, ""
    except CacheError:
        return None, store.stat(_key(name)).tag
