"""`--join`: processes that come, go and are killed make the cache of one process, to the byte."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import fake_run
from support.fleet import Fleet
from support.kill_trials import tree
from support.other_writer import other_writer
from svp.pipeline.cache import writer
from svp.pipeline.cache.create import require_no_other
from svp.pipeline.cache.layout import CLAIMS, LOGS
from svp.pipeline.errors import CacheError, ConfigError, PlanMismatchError
from svp.pipeline.executors import shard_queue
from svp.pipeline.executors.base import Event
from svp.pipeline.executors.shard_queue import MAX_MACHINES_LOST
from svp.pipeline.precompute import join
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.store import FolderStore

IMAGES, SHARDS = 40, 7


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run.install(monkeypatch)
    monkeypatch.setattr(join, "POLL_S", 0.05)


@pytest.fixture
def fleet(world: Path, tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "c", world / "images")


def claims(cache: Path) -> list[str]:
    return sorted(path.stem for path in (cache / LOGS / CLAIMS).rglob("*.json"))


def test_processes_that_start_at_once_divide_the_shards(fleet: Fleet, world: Path) -> None:
    fleet.join(4, delay=0.002)
    ended = fleet.end()
    assert [code for code, _ in ended] == [0] * 4
    assert all(said["complete"] for _, said in ended)
    assert sum(int(str(said["computed"])) for _, said in ended) == IMAGES, "nothing is done twice"
    assert tree(fleet.cache) == tree(world / "clean") and claims(fleet.cache) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_fleet_with_killed_processes_makes_the_same_cache(
    fleet: Fleet, world: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    dice, killed = random.Random(seed), 0
    fleet.join(3, delay=0.01)
    for _ in range(3):
        shards = fleet.committed() + dice.randint(0, 1)
        fleet.until(lambda shards=shards: fleet.committed() >= shards and claims(fleet.cache))
        killed += fleet.kill(dice.randint(1, 2), dice)
        fleet.join(2, delay=0.01)
    assert killed
    record_property("tried", killed)
    ended = fleet.end()
    assert {code for code, _ in ended} == {0}, ended
    assert tree(fleet.cache) == tree(world / "clean") and claims(fleet.cache) == []


def test_a_fleet_of_which_all_are_killed_is_finished_by_the_next(fleet: Fleet, world: Path) -> None:
    fleet.join(3, delay=0.1)
    fleet.until(lambda: fleet.committed() >= 2)
    assert fleet.kill(3, random.Random(0)) == 3
    kept = fleet.committed()
    assert 2 <= kept < SHARDS
    fleet.join(2)
    ended = fleet.end()
    assert [code for code, _ in ended] == [0, 0], ended
    assert sum(int(str(said["computed"])) for _, said in ended) <= IMAGES - 6 * kept + 6
    assert tree(fleet.cache) == tree(world / "clean") and claims(fleet.cache) == []


def test_a_shard_that_two_processes_have_is_committed_once(
    fleet: Fleet, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a holder is slow, or the file system has no locks: claims exclude no process."""
    monkeypatch.setattr(join.Claims, "take", lambda self, name, **options: True)
    fleet.join(3, delay=0.002)
    ended = fleet.end()
    assert [code for code, _ in ended] == [0] * 3
    assert sum(int(str(said["computed"])) for _, said in ended) > IMAGES, "shards were done twice"
    assert tree(fleet.cache) == tree(world / "clean")


def test_a_preempted_process_gives_its_shard_back(fleet: Fleet, world: Path) -> None:
    fleet.join(1, delay=0.05)
    fleet.until(lambda: fleet.committed() >= 2 and bool(claims(fleet.cache)))
    assert len(claims(fleet.cache)) <= 1, "those of committed shards are gone"
    (member,) = fleet.members
    assert member.pid
    member.terminate()
    ((code, said),) = fleet.end()
    assert code == 128 + signal.SIGTERM and "To resume: svp precompute --join" in str(said)
    assert claims(fleet.cache) == []
    fleet.members.clear()
    fleet.join(1)
    assert [code for code, _ in fleet.end()] == [0]
    assert tree(fleet.cache) == tree(world / "clean")


def test_an_image_that_kills_its_process_is_not_tried_without_end(fleet: Fleet) -> None:
    killed = 0
    for _ in range(MAX_MACHINES_LOST + 2):
        fleet.join(1, faults={"13": "kill"})
        fleet.members[-1].join()
        if fleet.members[-1].exitcode != -signal.SIGKILL:
            break
        killed += 1
        fleet.members.clear()
    assert killed == MAX_MACHINES_LOST
    ((code, said),) = fleet.end()
    assert (code, said["complete"], said["good"]) == (1, False, IMAGES - 6)
    assert isinstance(said["parked"], dict) and said["parked"].keys() == {2}
    assert "processes ended while they computed it" in said["parked"][2]
    assert "without --join" in said["parked"][2]


def test_an_image_that_fails_in_every_worker_is_quarantined(fleet: Fleet) -> None:
    fleet.join(2, faults={"13": "raise"})
    ended = fleet.end()
    assert [code for code, _ in ended] == [0, 0], ended
    assert all(said["failures"] == {"worker_error": 1} for _, said in ended)


def test_a_process_where_nothing_works_leaves_the_shards_to_others(
    fleet: Fleet, world: Path
) -> None:
    fleet.join(1, faults={str(number): "raise" for number in range(1, IMAGES + 1)})
    ((code, said),) = fleet.end()
    assert code == 1 and "the first 3 shards all failed" in str(said["error"])
    fleet.members.clear()
    fleet.join(1)
    assert [code for code, _ in fleet.end()] == [0]
    assert tree(fleet.cache) == tree(world / "clean") and claims(fleet.cache) == []


def test_a_shard_that_every_process_abandons_is_left_alone(fleet: Fleet) -> None:
    events = fleet.cache / LOGS / "events.jsonl"
    for attempt in range(4):
        before = events.read_text() if attempt else ""
        fleet.join(1, faults={str(number): "raise" for number in range(13, 19)})
        ((code, said),) = fleet.end()
        fleet.members.clear()
        assert (code, said["complete"], said["good"]) == (1, False, IMAGES - 6)
        assert isinstance(said["parked"], dict) and said["parked"].keys() == {2}
        assert "the images are not the cause" in said["parked"][2]
        assert ("without --join" in said["parked"][2]) == (attempt > 1)
        assert (events.read_text() != before) == (attempt < 3), "the fourth does not try"


def queue_on(cache: Path, counts: list[int], clock: Callable[[], float]) -> join.ClaimedQueue:
    """The queue of a process that believes that every shard of a finished cache is missing."""
    plan = fake_run.Plan.load(cache)
    missing = {shard: plan.layers for shard in range(plan.num_shards)}
    task = fake_run.FakeTask(str(cache), fake_run.LocalPaths(cache))
    mine = join.claims_on(cache, plan, 3, 60)
    return join.ClaimedQueue(task, missing, 3, mine, cache, counts.append, clock)


def test_what_was_committed_before_it_was_claimed_is_no_job(world: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(world / "clean", tmp_path / "c"))
    counts: list[int] = []
    queue = queue_on(cache, counts, lambda: 0.0)
    assert len(queue) == SHARDS and queue.take() is None
    assert len(queue) == 0 and sum(counts) == IMAGES and claims(cache) == []


def test_what_others_have_committed_is_seen_in_spite_of_their_claims(
    world: Path, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(world / "clean", tmp_path / "c"))
    plan = fake_run.Plan.load(cache)
    other = join.claims_on(cache, plan, 3, 60)
    assert all(other.take(str(shard)) for shard in range(SHARDS))
    counts: list[int] = []
    times = iter([0.0, 0.0, 0.0, 0.01, 1.0, 1.0, 1.0])
    queue = queue_on(cache, counts, lambda: next(times))
    assert queue.take() is None and len(queue) == SHARDS
    assert queue.take() is None and len(queue) == SHARDS, "it is not looked at without pause"
    assert queue.take() is None and len(queue) == 0 and sum(counts) == IMAGES


def test_one_process_makes_the_plan_while_the_others_wait(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = fleet.cache.parent / "hashed"
    hash_image = fake_run.planner.hash_image

    def count(*given: object) -> object:
        with hashed.open("a") as file:
            file.write("x")
        return hash_image(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(fake_run.planner, "hash_image", count)
    fleet.join(4)
    assert [code for code, _ in fleet.end()] == [0] * 4
    assert len(hashed.read_text()) == IMAGES


def test_a_run_alone_clears_what_a_fleet_left(fleet: Fleet, world: Path) -> None:
    fleet.join(1, delay=0.05)
    fleet.until(lambda: bool(fleet.committed() and claims(fleet.cache)))
    fleet.kill(1, random.Random(0))
    report = fake_run.run(fleet.cache, world / "images", RunOptions(workers=0))
    assert report.complete and claims(fleet.cache) == []
    assert tree(fleet.cache) == tree(world / "clean")


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("ends", ["killed", "commits"])
def test_a_shard_of_which_another_writer_has_other_bytes_is_tried_later(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, join: bool
) -> None:
    """Its files are young: it may be at work. Then it commits, or they get too old."""
    cache = Path(shutil.copytree(world / "clean", tmp_path / "c"))
    commit = other_writer(cache, world / "images", 2)
    collided = shard_queue.ShardQueue.collided

    def then(*given: object) -> Iterator[Event]:
        yield from collided(*given)  # type: ignore[arg-type]
        if ends == "commits":
            commit()
        else:
            later = time.time() + writer.LEASE_S + 1
            monkeypatch.setattr(time, "time", lambda: later)

    monkeypatch.setattr(shard_queue.ShardQueue, "collided", then)
    monkeypatch.setattr(shard_queue, "FIRST_PAUSE_S", 0.0)
    options = RunOptions(workers=0, join=join)
    report = fake_run.run(cache, world / "images", options)
    assert report.complete and report.exit_code == 0 and claims(cache) == []
    assert tree(cache) == tree(tmp_path / "elsewhere/c" if ends == "commits" else world / "clean")
    events = (cache / LOGS / "events.jsonl").read_text().splitlines()
    (met,) = (one for one in map(json.loads, events) if one["kind"] == "shard_collided")
    assert met["shard"] == 2 and "other bytes" in met["detail"]
    assert f"-{os.getpid()}, " in met["detail"], "this writer is named too"


def test_joining_a_finished_cache_does_nothing(world: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(world / "clean", tmp_path / "c"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    report = fake_run.run(cache, world / "images", RunOptions(workers=0, join=True))
    assert (report.computed, report.complete, report.failed) == (0, True, False)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")} == before


def test_another_recipe_does_not_join(fleet: Fleet, world: Path) -> None:
    fleet.join(1)
    fleet.end()
    other = fake_run.RECIPE.model_copy(update={"batch": 2})
    with pytest.raises(PlanMismatchError, match=r"recipe.batch: 4 -> 2"):
        fake_run.run(fleet.cache, world / "images", RunOptions(workers=0, join=True), recipe=other)


def test_a_foreign_folder_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CacheError, match="not empty and no cache"):
        fake_run.run(tmp_path, world / "images", RunOptions(workers=0, join=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_place_that_another_process_is_probing_is_no_foreign_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process does before it makes the plan; one killed there leaves its probe."""
    cache, delete = tmp_path / "c", FolderStore.delete
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "delete", lambda self, key, if_match=None: False)
        patch.setattr(fake_run.Plan, "data", None)  # it goes no further
        with pytest.raises((TypeError, ValueError)):
            fake_run.run(cache, world / "images", RunOptions(workers=0))
    assert FolderStore.delete is delete and list(cache.rglob("probe-*"))
    require_no_other(cache)
    assert fake_run.run(cache, world / "images", RunOptions(workers=0)).complete
    assert tree(cache) == tree(world / "clean")


def test_a_cache_that_another_process_has_just_made_is_no_foreign_folder(world: Path) -> None:
    require_no_other(world / "clean")


@pytest.mark.parametrize(
    ("option", "given"),
    [("--shards", {"shards": range(2)}), ("--no-resume", {"resume": False}),
     ("--retry-quarantined", {"retry_quarantined": True})],
)  # fmt: skip
def test_what_does_not_go_with_joining(option: str, given: dict[str, object]) -> None:
    RunOptions(**given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"--join with {option}"):
        RunOptions(join=True, **given)  # type: ignore[arg-type]
