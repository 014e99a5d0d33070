"""Claims: one holder at a time, takeover by the observer's clock, counts of what befell holders."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from svp.pipeline.errors import CacheError
from svp.pipeline.executors.shard_queue import MAX_MACHINES_LOST
from svp.pipeline.precompute import claims as module
from svp.pipeline.precompute.claims import Claims, read_claims
from svp.pipeline.store import Store, open_store

LEASE = 10.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["folder", "memory", "served"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "served":
        request.getfixturevalue("s3")
        return open_store(f"s3://tests/{uuid4().hex}/claims")
    return open_store(tmp_path if request.param == "folder" else f"memory://{uuid4().hex}")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process seems to be on a machine of its own."""
    monkeypatch.setattr(module, "machine", lambda: uuid4().hex[:8])


def make(store: Store, clock: Clock, **options: float) -> Claims:
    return Claims(store, lease_s=LEASE, clock=clock, **options)  # type: ignore[arg-type]


def test_one_process_has_a_shard_until_it_is_done(store: Store) -> None:
    clock = Clock()
    a, b = make(store, clock), make(store, clock)
    assert a.take("5") and not b.take("5") and b.take("6")
    assert {name: claim.pid > 0 for name, claim in read_claims(store).items()} == {
        "5": True, "6": True}  # fmt: skip
    a.done("5")
    assert read_claims(store).keys() == {"6"} and b.take("5")


def test_of_many_that_claim_at_once_one_succeeds(store: Store) -> None:
    clock = Clock()
    members = [make(store, clock) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            won = [*threads.map(lambda one, n=str(number): one.take(n), members)]
            assert won.count(True) == 1


def test_of_many_that_take_over_at_once_one_succeeds(store: Store) -> None:
    clock = Clock()
    dead, members = make(store, clock), [make(store, clock) for _ in range(8)]
    for number in range(10):
        assert dead.take(str(number)) and not any(one.take(str(number)) for one in members)
    clock.now += LEASE
    with ThreadPoolExecutor(8) as threads:
        for number in range(10):
            won = [*threads.map(lambda one, n=str(number): one.take(n), members)]
            assert won.count(True) == 1


@pytest.mark.parametrize("year", ["1999", "2999"])
def test_a_claim_is_stale_by_the_clock_of_the_observer(
    store: Store, monkeypatch: pytest.MonkeyPatch, year: str
) -> None:
    monkeypatch.setattr(module, "_now", lambda: f"{year}-01-01T00:00:00.{uuid4().hex[:3]}+00:00")
    theirs, ours = Clock(), Clock()
    holder, observer = make(store, theirs), make(store, ours)
    assert holder.take("5") and not observer.take("5")
    for _ in range(5):  # renewed claims stay, however often the observer looks
        ours.now += LEASE * 0.9
        holder.renew()
        assert not observer.take("5")
    ours.now += LEASE * 0.9
    assert not observer.take("5")
    ours.now += LEASE * 0.1
    assert observer.take("5")
    assert read_claims(store)["5"].lost == 1


@pytest.mark.parametrize("renews", [True, False])
def test_a_slow_holder_leaves_the_claim_of_its_successor_alone(store: Store, renews: bool) -> None:
    clock = Clock()
    slow, successor, third = (make(store, clock) for _ in range(3))
    assert slow.take("5") and not successor.take("5")
    clock.now += LEASE
    assert successor.take("5")
    holder = read_claims(store)["5"].holder
    if renews:
        slow.renew()
    slow.done("5")
    slow.fail("5", "too late")
    slow.give_back("5")
    assert read_claims(store)["5"].holder == holder and not third.take("5")
    successor.done("5")
    assert read_claims(store) == {}


def test_a_holder_killed_on_this_machine_is_seen_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "machine", lambda: "here")
    clock = Clock()
    dead, observer = make(store, clock), make(store, clock)
    assert dead.take("5") and not observer.take("5")
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: False)
    assert observer.take("5")


class LosesAnswers:
    """A store whose replacements are carried out and then fail."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def replace(self, *given: object, **options: object) -> str:
        self._store.replace(*given, **options)  # type: ignore[arg-type]
        raise CacheError("no answer")


@pytest.mark.parametrize("end", ["done", "give_back", "fail"])
@pytest.mark.parametrize("renewed", [False, True])
def test_a_claim_whose_renewal_got_no_answer_is_still_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch, end: str, renewed: bool
) -> None:
    """Else a file is left that nobody renews or deletes, of a plan for ever."""
    clock = Clock()
    holder = make(store, clock)
    assert holder.take("5")
    with monkeypatch.context() as patch:
        patch.setattr(holder, "_store", LosesAnswers(store))
        clock.now += 1
        holder.renew()
    if renewed:
        before = read_claims(store)["5"]
        monkeypatch.setattr(module, "_now", lambda: "2999-01-01T00:00:00+00:00")
        holder.renew()
        assert read_claims(store)["5"] == before.model_copy(update={"renewed": module._now()})
    if end == "fail":
        holder.fail("5", "cause")
        assert (found := read_claims(store)["5"]).holder == "" and found.failed == 1
    else:
        getattr(holder, end)("5")
        assert read_claims(store) == {}
    assert make(store, clock).take("5")


def test_a_run_that_makes_no_progress_loses_its_claims(store: Store) -> None:
    clock = Clock()
    hung, observer = make(store, clock, hold_s=100.0), make(store, clock)
    assert hung.take("5")
    clock.now += 99
    hung.renew()
    assert not observer.take("5")
    hung.alive()
    clock.now += LEASE * 0.9
    hung.renew()
    assert not observer.take("5")
    clock.now += 100
    hung.renew()
    assert observer.take("5")


def test_leaving_gives_claims_back_with_their_counts(store: Store) -> None:
    clock = Clock()
    dead = make(store, clock)
    assert dead.take("5")
    with make(store, clock) as leaving:
        assert not leaving.take("5") and leaving.take("6")
        clock.now += LEASE
        assert leaving.take("5")
    assert {name: (c.holder, c.lost) for name, c in read_claims(store).items()} == {"5": ("", 1)}
    assert make(store, clock).take("5")


def test_a_held_claim_is_renewed_in_the_background(store: Store) -> None:
    with Claims(store, lease_s=0.06) as claims:
        assert claims.take("5")
        before = read_claims(store)["5"]
        for _ in range(2000):
            if (after := read_claims(store)["5"]).renewed != before.renewed:
                break
            time.sleep(0.005)
        assert after.renewed > before.renewed and after.since == before.since


def test_a_shard_whose_holders_are_killed_is_abandoned(store: Store) -> None:
    clock = Clock()
    for lost in range(MAX_MACHINES_LOST):
        holder = make(store, clock)
        assert not holder.take("5") if lost else True
        clock.now += LEASE
        assert holder.take("5") and holder.abandoned == {}
    last = make(store, clock)
    assert not last.take("5")
    clock.now += LEASE
    assert not last.take("5") and "5 processes ended while they computed it" in last.abandoned["5"]
    newcomer = make(store, clock)
    newcomer.find_abandoned()
    assert newcomer.abandoned.keys() == {"5"}
    assert last.take("5", bounded=False)


def test_a_shard_that_processes_abandon_is_abandoned_by_all(store: Store) -> None:
    clock = Clock()
    for attempt in range(2):
        member = make(store, clock, max_tries=2)
        assert member.take("5")
        member.fail("5", f"cause {attempt}")
    last = make(store, clock, max_tries=2)
    assert not last.take("5") and last.abandoned == {"5": "cause 1"}


@pytest.mark.parametrize("data", [b"", b"{", b'{"holder":7}\n', json.dumps({"x": 1}).encode()])
def test_a_damaged_claim_is_taken_over_after_a_lease(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "5.json").write_bytes(data)
    clock, store = Clock(), open_store(tmp_path)
    member = make(store, clock)
    assert read_claims(store) == {} and not member.take("5")
    clock.now += LEASE
    assert member.take("5") and read_claims(store)["5"].lost == 0


def test_each_process_has_an_order_of_its_own(store: Store) -> None:
    a, b = make(store, Clock()), make(store, Clock())
    shards = range(100)
    assert a.order(shards) == a.order(shards) != b.order(shards)
    assert sorted(a.order(shards)) == sorted(b.order(shards)) == [*shards]
