"""`svp status`: counts from manifests, processes from claims, the end of a watch."""

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from support import fake_run
from support.fleet import Fleet
from svp.cli import main
from svp.pipeline.cache.layout import LOGS, manifest_key
from svp.pipeline.cache.plan import Plan
from svp.pipeline.errors import MissingError
from svp.pipeline.precompute import cache_status, claims, join
from svp.pipeline.precompute.cache_status import Watch
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.store import open_store

IMAGES, SHARDS = 40, 7  # of 6 images


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run.install(monkeypatch)
    monkeypatch.setattr(join, "POLL_S", 0.05)
    monkeypatch.setattr(cache_status, "WAIT_S", 0.01)


@pytest.fixture
def half(world: Path, tmp_path: Path) -> Path:
    """A cache of which shards 0 to 2 are made, by a static split."""
    cache = tmp_path / "c"
    fake_run.run(cache, world / "images", RunOptions(workers=0, shards=range(3)))
    return cache


def test_counts_come_from_manifests_whatever_made_them(half: Path) -> None:
    found = Watch(half).look()
    assert (found.done_shards, found.shards) == (3, SHARDS)
    assert (found.done_images, found.images) == (18, IMAGES)
    assert (found.complete, found.over, found.exit_code) == (False, False, 0)
    assert found.at_work == () and found.abandoned == {}
    assert found.lines()[1].startswith("3/7 shards  18/40 images")
    assert found.lines()[-1].startswith("latest run: finished at ")


def test_a_shard_counts_once_every_layer_has_it(half: Path) -> None:
    (features,) = (path.parent for path in half.glob("features/*/manifest"))
    (half / manifest_key(f"features/{features.name}", 1)).unlink()
    found = Watch(half).look()
    assert (found.done_shards, found.done_images) == (2, 12)
    assert sorted(found.layers.values()) == [2, 3, 3]
    assert f"features/{features.name}: 2 shards" in found.lines()


def test_the_rate_is_that_of_the_last_minutes(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(cache_status.time, "time", lambda: now)
    for shard, age in ((0, 400), (1, 60), (2, 20)):
        for path in half.glob(f"*/*/manifest/{shard}.json"):
            os.utime(path, (now - age, now - age))
    found = Watch(half).look()
    assert found.images_per_s == 6 / 60, "the first of the last minutes was computed before them"
    assert (found.eta_s, found.newest_s) == (220.0, 20.0)
    assert found.summary().endswith("0.1/s  ETA 3:40  newest 0:20 ago")
    monkeypatch.setattr(cache_status.time, "time", lambda: now + 3600)
    found = Watch(half).look()
    assert (found.images_per_s, found.eta_s) == (None, None)


def test_claims_say_which_processes_are_at_work(half: Path) -> None:
    plan = Plan.load(half)
    member = claims.Claims(claims.claims_store(half, plan), max_tries=1)
    assert member.take("1") and member.take("5") and member.take("4")
    member.fail("4", "no memory\x1b[31m")
    found = Watch(half).look()
    (one,) = found.at_work  # shard 1 is committed
    assert (one.shard, one.pid) == (5, os.getpid()) and 0 <= one.renewed_s <= one.for_s < 60
    assert found.abandoned.keys() == {4} and not found.over
    lines = found.lines()
    assert any(line.startswith(f"shard 5: {one.host}, process {one.pid}, for 0:") for line in lines)
    assert any(line.startswith("shard 4 abandoned: no memory\\") for line in lines)


def test_a_clock_that_is_ahead_gives_no_negative_age(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_now", lambda: "2999-01-01T00:00:00.000+00:00")
    member = claims.Claims(claims.claims_store(half, Plan.load(half)))
    assert member.take("5")
    (one,) = Watch(half).look().at_work
    assert (one.for_s, one.renewed_s) == (0.0, 0.0)


def say(cache: Path, **changes: object) -> None:
    """Change what the latest run has written of itself."""
    path = cache / LOGS / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_killed_run_reads_lost(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch ends where no process is seen: neither a claim nor a commit of the last minute."""
    say(half, state="running", time="2020-01-01T00:00:00.000+00:00", host="gone")
    found = Watch(half).look()
    line = found.lines()[-1]
    assert line.startswith("latest run: lost at 2020") and "the same svp precompute" in line
    assert found.summary().endswith("latest run lost") and not found.over
    now = time.time() + 90
    monkeypatch.setattr(cache_status.time, "time", lambda: now)
    *_, last = Watch(half).looks()
    assert (last.over, last.complete, last.exit_code) == (True, False, 1)
    assert claims.Claims(claims.claims_store(half, Plan.load(half))).take("5")
    assert not Watch(half).look().over


def test_images_of_shards_under_way_count_while_the_run_works(half: Path) -> None:
    now = datetime.now(UTC).isoformat()
    say(half, state="running", time=now, images=21, images_per_s=2.0)
    found = Watch(half).look()
    assert (found.done_images, found.computed) == (18, 21)
    assert found.lines()[1].startswith("3/7 shards  21/40 images")
    say(half, state="finished", images=21)
    assert Watch(half).look().computed == 18


def test_a_watch_ends_with_the_cache(world: Path, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "c", world / "images")
    fleet.join(2, delay=0.1)
    fleet.until(lambda: fleet.committed() > 0)
    seen = [*Watch(fleet.cache).looks()]
    fleet.end()
    done = [found.done_shards for found in seen]
    assert done == sorted(done) and done[-1] == SHARDS and len(done) > 1
    assert [found.complete for found in seen].count(True) == 1 and seen[-1].complete
    assert any(found.at_work for found in seen)


def test_a_watch_ends_where_all_that_is_missing_was_abandoned(world: Path, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "c", world / "images")
    while not fleet.members or fleet.members[-1].exitcode != 1:
        fleet.join(1, faults={"13": "kill"})
        fleet.members[-1].join()
    (found,) = Watch(fleet.cache).looks()
    assert (found.over, found.complete, found.exit_code) == (True, False, 1)
    done = CliRunner().invoke(main, ["status", str(fleet.cache), "--watch", "--json"])
    assert done.exit_code == 1
    assert "5 processes ended" in json.loads(done.stdout)["abandoned"]["2"]


def test_no_cache_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        Watch(tmp_path / "none").look()
    assert CliRunner().invoke(main, ["status", str(tmp_path / "none")]).exit_code == 3


def test_a_cache_whose_plan_is_being_made_is_told(tmp_path: Path) -> None:
    with join.planning(tmp_path / "c", lambda: None):
        done = CliRunner().invoke(main, ["status", str(tmp_path / "c")])
    assert done.exit_code == 3
    assert f"process {os.getpid()}, reads the images" in done.stderr


@pytest.mark.parametrize("terminal", [False, True])
def test_the_command_shows_a_cache_while_it_is_made(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    fleet = Fleet(tmp_path / "c", world / "images")
    fleet.join(1, delay=0.05)
    fleet.until(lambda: fleet.committed() > 0)
    done = CliRunner().invoke(main, ["status", str(fleet.cache), "--watch"])
    fleet.end()
    assert done.exit_code == 0, done.output
    last = done.output.splitlines()
    assert "7/7 shards  40/40 images  complete" in last
    assert ("\x1b[" in done.output) == terminal
    assert terminal or last[0].startswith(("1/7", "2/7", "3/7", "4/7", "5/7", "6/7"))


def test_an_address_is_shown_as_it_was_given() -> None:
    with join.planning(open_store("memory://status/c"), lambda: None):
        done = CliRunner().invoke(main, ["status", "memory://status/c"])
    assert "svp: memory://status/c: no plan yet" in done.stderr


def test_a_finished_cache(world: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(world / "clean", tmp_path / "c"))
    said = json.loads(CliRunner().invoke(main, ["status", str(cache), "--json"]).stdout)
    assert (said["complete"], said["done_shards"], said["done_images"]) == (True, SHARDS, IMAGES)
