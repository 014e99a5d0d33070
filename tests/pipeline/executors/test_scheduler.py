"""The policy of clusters on machines that are not there: a fake pool and a clock that is turned."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from support.mock_task import MockTask
from svp.pipeline.cache.writer import LEASE_S
from svp.pipeline.errors import CacheError, MissingError
from svp.pipeline.executors import Event, Job
from svp.pipeline.executors.base import (
    Abandoned,
    BatchDone,
    Collided,
    Died,
    Done,
    Draining,
    Failed,
    FalseStart,
    JobReport,
    LeftOut,
    Pool,
    Ready,
    Refused,
    Requeued,
    SearchStarted,
)
from svp.pipeline.executors.false_starts import FalseStarts, in_short
from svp.pipeline.executors.scheduler import Scheduler
from svp.pipeline.executors.shard_queue import FIRST_PAUSE_S, MAX_COLLISIONS, MAX_MACHINES_LOST
from svp.pipeline.store import OtherBytesError

TRACEBACK = (
    "Traceback (most recent call last):\n  File x\nModuleNotFoundError: No module named 'svp'"
)
TASK = MockTask("", "")


@dataclass
class Machine:
    """`load` makes the event that follows a start; a job takes `job_s`; `slots` workers fit."""

    load: Callable[..., Event] = Ready
    slots: int = 1
    job_s: float = 1.0


@dataclass
class Cluster(Pool):
    """Machines by name; `plan` holds what happens at a time."""

    machines: dict[str, Machine]
    size: int | None = None
    elastic: bool = True
    now: float = 0.0
    plan: list[tuple[float, Callable[["Cluster"], None]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    avoided: set[str] = field(default_factory=set)
    pending: list[int] = field(default_factory=list)
    where: dict[int, str] = field(default_factory=dict)
    due: dict[int, tuple[float, Job]] = field(default_factory=dict)
    starts: list[tuple[float, int, str]] = field(default_factory=list)
    given: list[tuple[float, str, Job]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def capacity(self) -> int:
        usable = [m.slots for name, m in self.machines.items() if name not in self.avoided]
        return sum(usable) if self.size is None else self.size

    def start(self, worker: int) -> None:
        self.pending.append(worker)

    def stop(self, worker: int) -> None:
        self.where.pop(worker, None)
        self.due.pop(worker, None)
        self.pending = [one for one in self.pending if one != worker]
        self.events = [event for event in self.events if event.worker != worker]

    def avoid(self, place: str) -> None:
        self.avoided.add(place)

    def submit(self, worker: int, job: Job) -> None:
        place = self.where[worker]
        self.given.append((self.now, place, job))
        self.due[worker] = self.now + self.machines[place].job_s, job

    def wait(self, timeout: float) -> list[Event]:
        self.now = round(self.now + timeout, 3)
        for when, happens in list(self.plan):
            if when <= self.now:
                self.plan.remove((when, happens))
                happens(self)
        for worker in list(self.pending):
            self._place(worker)
        for worker, (when, job) in list(self.due.items()):
            if when <= self.now:
                del self.due[worker]
                self.events.append(Done(job.shard, worker, report=JobReport(images=4)))
        found, self.events = self.events, []
        return found

    def _place(self, worker: int) -> None:
        for name, machine in self.machines.items():
            taken = sum(place == name for place in self.where.values())
            if name not in self.avoided and taken < machine.slots:
                self.pending.remove(worker)
                self.where[worker] = name
                self.starts.append((self.now, worker, name))
                self.events.append(machine.load(worker=worker, place=name))
                return

    def lose(self, name: str) -> None:
        """The machine is gone, with what ran there."""
        del self.machines[name]
        for worker in [w for w, place in self.where.items() if place == name]:
            self.due.pop(worker, None)
            self.events.append(Died(worker=worker, place=name, machine=True))

    def drain(self, name: str) -> None:
        """The machine is about to go: no new worker is placed there."""
        self.avoided.add(name)
        for worker in [w for w, place in self.where.items() if place == name]:
            self.events.append(Draining(worker=worker, place=name))

    def close(self) -> None: ...


def broken(worker: int, place: str) -> Event:
    return Failed(worker=worker, place=place, detail=TRACEBACK)


def run(cluster: Cluster, shards: int = 12, **options: Any) -> list[Event]:
    return list(scheduler(cluster, shards, **options))


def scheduler(
    cluster: Cluster, shards: int = 12, tries: int = 3, **options: Any
) -> Iterator[Event]:
    made = Scheduler(cluster, TASK, range(shards), tries, None, clock=cluster.clock, **options)
    return made.events()


def of(kind: type[Any], events: list[Event]) -> list[Any]:
    return [event for event in events if type(event) is kind]


def test_a_machine_without_svp_is_left_out_and_named() -> None:
    cluster = Cluster({"good": Machine(), "bad": Machine(broken)})
    events = run(cluster)
    assert sorted(e.shard for e in of(Done, events)) == list(range(12))
    (out,) = of(LeftOut, events)
    assert out.place == "bad"
    assert out.detail.startswith("bad: ModuleNotFoundError: No module named 'svp'\nTraceback")
    began = [when for when, _, place in cluster.starts if place == "bad"]
    assert [round(b - a) for a, b in pairwise(began)] == [1, 2]
    assert len(of(FalseStart, events)) == 2, "the third one leaves it out"


def test_a_machine_with_other_versions_is_refused_at_once() -> None:
    def other(worker: int, place: str) -> Event:
        return Refused(worker=worker, place=place, detail="pillow 12.2.0, not 13.0.0")

    cluster = Cluster({"old": Machine(other), "good": Machine()})
    events = run(cluster)
    assert len(of(Done, events)) == 12
    assert [e.detail for e in of(LeftOut, events)] == ["old: pillow 12.2.0, not 13.0.0"]
    assert [place for _, _, place in cluster.starts].count("old") == 1
    assert {place for _, place, _ in cluster.given} == {"good"}


def test_a_machine_without_a_file_is_left_out_but_a_full_disk_ends_the_run() -> None:
    def no_mount(worker: int, place: str) -> Event:
        error = MissingError("/nfs/weights is not there")
        return Failed(worker=worker, place=place, detail=str(error), error=error)

    events = run(Cluster({"bad": Machine(no_mount), "good": Machine()}))
    assert [e.place for e in of(LeftOut, events)] == ["bad"]
    with pytest.raises(MissingError, match="/nfs/weights"):
        run(Cluster({"only": Machine(no_mount)}, elastic=False))

    def full(cluster: Cluster) -> None:
        cluster.events.append(Failed(0, 0, error=CacheError("disk full")))

    with pytest.raises(CacheError, match="disk full"):
        run(Cluster({"good": Machine()}, plan=[(0.5, full)]))


def test_the_run_ends_only_if_no_worker_is_ready_and_none_came() -> None:
    cluster = Cluster({"a": Machine(broken), "b": Machine(broken)})
    with pytest.raises(CacheError) as told:
        run(cluster, patience=600.0)
    assert 600 <= cluster.now < 601
    text = str(told.value)
    assert "no worker is ready, and none came for 10:00" in text
    assert "a is left out: ModuleNotFoundError: No module named 'svp'; b is left out: " in text
    assert "the first in full: ModuleNotFoundError" in text and "File x" in text

    late = Cluster({"a": Machine(broken)})
    late.plan = [(500.0, lambda cluster: cluster.machines.update(b=Machine()))]
    assert len(of(Done, run(late, patience=600.0))) == 12

    with pytest.raises(CacheError, match="no worker is ready. here is left out: Mod"):
        run(Cluster({"here": Machine(broken)}, elastic=False))


def test_a_worker_that_was_ready_once_is_tried_for_as_long_as_the_run_lasts() -> None:
    """Pauses of 1, 2, 4 ... 60 s; the place is proven, so it is not left out."""
    clock = [0.0]
    starts = FalseStarts(lambda: clock[0])
    starts.ready("a")
    pauses = []
    for _ in range(9):
        starts.began(0)
        pauses.append(starts.failed(0, "a", "no memory"))
        clock[0] += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60] and not starts.left_out
    starts.ready("a")
    starts.began(0)
    assert starts.failed(0, "a", "no memory") == 1


def test_workers_that_fail_together_are_one_false_start() -> None:
    clock = [0.0]
    starts = FalseStarts(lambda: clock[0])
    for attempt in range(3):
        for worker in range(8):
            starts.began(worker)
        for worker in range(8):
            clock[0] += 1
            assert ("a" in starts.left_out) is (attempt == 2 and worker > 0)
            starts.failed(worker, "a", "no mount")
    assert starts.left_out == {"a": "no mount"}


@pytest.mark.parametrize("size", [None, 3])
def test_a_machine_that_joins_later_is_used(size: int | None) -> None:
    cluster = Cluster({"first": Machine()}, size=size)
    cluster.plan = [(3.0, lambda one: one.machines.update(second=Machine(slots=2)))]
    assert len(of(Done, run(cluster))) == 12
    places = [place for _, place, _ in cluster.given]
    assert places.count("second") == places.count("first") == 6


def test_a_draining_machine_gets_nothing_new_and_keeps_what_it_has() -> None:
    cluster = Cluster({"stays": Machine(), "spot": Machine(job_s=3.0)})
    cluster.plan = [(4.0, lambda one: one.drain("spot"))]
    events = run(cluster)
    assert sorted(e.shard for e in of(Done, events)) == list(range(12))
    assert not of(Failed, events), "the job under way was finished there"
    assert max(when for when, place, _ in cluster.given if place == "spot") < 4.0
    assert [e.place for e in of(Draining, events)] == ["spot"]


@pytest.mark.parametrize("load", [Ready, broken])
def test_a_machine_drains_while_a_worker_loads_its_models(load: Callable[..., Event]) -> None:
    """One round may bring that and how the loading ended: the worker is stopped by then."""

    def drain(one: Cluster) -> None:
        one.drain("spot")
        worker = next(worker for worker, place in one.where.items() if place == "spot")
        one.events.append(load(worker=worker, place="spot"))

    slow = Machine(load=lambda worker, place: BatchDone(worker=worker, place=place))
    cluster = Cluster({"stays": Machine(), "spot": slow}, size=2)
    cluster.plan = [(2.0, drain), (4.0, lambda one: one.machines.update(new=Machine()))]
    events = run(cluster)
    assert sorted(e.shard for e in of(Done, events)) == list(range(12))
    assert not of(FalseStart, events)
    assert [place for _, _, place in cluster.starts] == ["stays", "spot", "new"]


def test_a_job_lost_with_its_machine_is_no_attempt() -> None:
    machines = {f"m{number}": Machine() for number in range(4)}
    cluster = Cluster(machines, plan=[(t + 0.5, lambda c, n=t: c.lose(f"m{n}")) for t in range(3)])
    events = run(cluster, tries=1)
    assert sorted(e.shard for e in of(Done, events)) == list(range(12))
    assert len(of(Requeued, events)) == 3
    assert not of(Failed, events) and not of(SearchStarted, events)


def test_a_shard_that_ends_every_machine_is_searched_in_the_end() -> None:
    """Its images may be what ends them: from then on each loss is an attempt."""
    cluster = Cluster({"m": Machine(job_s=1e9)}, plan=[])
    lost = 0

    def lose(one: Cluster) -> None:
        nonlocal lost
        lost += 1
        one.lose("m")
        one.machines["m"] = Machine(job_s=1e9)

    cluster.plan = [(2.0 * t, lose) for t in range(1, 400)]
    events = run(cluster, shards=1, tries=2)
    assert len(of(Requeued, events)) == MAX_MACHINES_LOST
    assert len(of(SearchStarted, events)) == 1
    assert len(of(Abandoned, events)) == 1


def test_a_machine_on_which_every_job_fails_is_left_out() -> None:
    """It fails fast, so it is always idle first and would use up the attempts of all shards."""

    class Failing(Cluster):
        def submit(self, worker: int, job: Job) -> None:
            super().submit(worker, job)
            if self.where[worker] == "bad":
                del self.due[worker]
                self.events.append(Failed(worker=worker, place="bad", detail="CUDA error: ECC"))

    cluster = Failing({"bad": Machine(slots=2), "good": Machine()})
    events = run(cluster, shards=40)
    assert sorted(e.shard for e in of(Done, events)) == list(range(40))
    (out,) = of(LeftOut, events)
    assert out.detail == "bad: 3 jobs in a row failed, last: CUDA error: ECC"
    assert 3 <= len(of(Failed, events)) <= 5, "and the other worker of that machine may fail once"
    assert not of(SearchStarted, events)
    assert {p for _, p, _ in cluster.given[6:]} == {"good"}

    alone = Failing({"bad": Machine()})
    assert len(of(Abandoned, list(take(scheduler(alone, shards=1))))) == 1, "the last is kept"


def take(events: Iterator[Event]) -> Iterator[Event]:
    """Until the run ends itself."""
    try:
        yield from events
    except CacheError:
        return


def test_a_worker_that_was_nowhere_rests_and_no_place_is_left_out() -> None:
    """A runtime environment that cannot be made: Ray does not say on which node."""

    def nowhere(worker: int, place: str) -> Event:
        return Died(worker=worker, detail="RuntimeEnvSetupError")

    cluster = Cluster({"a": Machine(nowhere)})
    with pytest.raises(CacheError, match="worker 0: RuntimeEnvSetupError"):
        run(cluster, patience=300.0)
    began = [when for when, _, _ in cluster.starts]
    pauses = [round(b - a) for a, b in pairwise(began)]
    assert pauses[:7] == [1, 2, 4, 8, 16, 32, 60] and not cluster.avoided


def test_fewer_workers_than_asked_for_end_the_run_only_after_a_while() -> None:
    """As with --workers 2:4."""
    plan = [(1.0, lambda c: c.lose("a")), (1.0, lambda c: c.lose("b"))]
    cluster = Cluster({name: Machine(job_s=40.0) for name in "abc"}, size=4, plan=plan)  # type: ignore[arg-type]
    with pytest.raises(CacheError, match="1 worker is ready of at least 2, and none came for 5:00"):
        run(cluster, least=2, patience=300.0)
    assert 300 <= cluster.now - 0.8 < 301
    enough = Cluster({name: Machine() for name in "abc"}, size=4)
    assert len(of(Done, run(enough, least=2, patience=300.0))) == 12, "the fourth never came"


def test_the_last_line_of_a_traceback_comes_first() -> None:
    assert in_short(TRACEBACK).splitlines()[0] == "ModuleNotFoundError: No module named 'svp'"
    assert in_short("exit code 7") == "exit code 7"


@dataclass
class OtherKind(Cluster):
    """Of shard 1 another writer has made files with other bytes, which the first attempts meet."""

    meet: int = 1
    when: list[float] = field(default_factory=list)

    def wait(self, timeout: float) -> list[Event]:
        return [
            self._met(event)
            if isinstance(event, Done) and event.shard == 1 and len(self.when) < self.meet
            else event
            for event in super().wait(timeout)
        ]

    def _met(self, event: Event) -> Event:
        self.when.append(self.now)
        error = OtherBytesError("c/dino/c/1/0", "aa", "bb", "node2, H200", "node1, A100")
        return Failed(event.shard, event.worker, str(error), error=error)


def test_a_shard_that_another_writer_has_with_other_bytes_is_put_back() -> None:
    cluster = OtherKind({"good": Machine()})
    events = run(cluster, 4)
    (met,) = of(Collided, events)
    assert met.shard == 1 and "by node1, A100, now aa by node2, H200" in met.detail
    assert [e.shard for e in of(Done, events)] == [0, 2, 3, 1]
    assert cluster.given[-1][0] - cluster.when[0] >= FIRST_PAUSE_S
    assert len(cluster.starts) == 1, "its worker goes on"


def test_a_shard_whose_other_bytes_stay_in_the_way_is_abandoned() -> None:
    cluster = OtherKind({"good": Machine()}, meet=MAX_COLLISIONS + 1)
    events = run(cluster, 4, tries=1)
    assert len(of(Collided, events)) == MAX_COLLISIONS + 1 and not of(Failed, events)
    (end,) = of(Abandoned, events)
    assert end.shard == 1 and "by node1, A100, now aa by node2, H200" in end.detail
    assert [e.shard for e in of(Done, events)] == [0, 2, 3]
    assert cluster.when[-1] - cluster.when[0] > LEASE_S, (
        "files of a killed writer are cleared before"
    )
