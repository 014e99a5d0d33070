"""A worker that is stopped without dying, and readers that look at a cache while it is written."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from support.kill_trials import orphans, start, tree, until_shards, workers
from svp.pipeline.cache import CacheReader
from svp.pipeline.errors import CacheError, MissingError

SLOW = ("--told", '{"delay": 0.02}')
Count = Callable[[str, object], None]


def test_a_stopped_worker_is_replaced(world: Path, tmp_path: Path) -> None:
    """SIGSTOP: the process lives and says nothing; after the time limit it is killed for good."""
    cache = tmp_path / "c"
    run = start(cache, world / "images", "--timeout", "10", *SLOW)
    until_shards(cache, 1, run)
    group = workers(run)
    # One that is at work: another may still load its models, and would not be missed.
    record = next((cache / "logs").glob("[0-9]*.json"))
    os.kill(json.loads(record.read_text())["pid"], signal.SIGSTOP)
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    # 34: it was stopped between the commit of its shard and the message that says so.
    report = json.loads(out)
    assert report["computed"] in (34, 40) and report["good"] == 40
    assert orphans(group) == 0
    assert tree(cache) == tree(world / "clean")
    lines = (cache / "logs/events.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert "worker_hung" in kinds


def test_a_reader_during_two_writers(world: Path, tmp_path: Path, record_property: Count) -> None:
    """Opened again and again while two runs write: every row is missing or right."""
    cache = tmp_path / "c"
    clean = CacheReader(world / "clean")
    want = [clean.features(i).tobytes() for i in range(len(clean))]
    runs = [start(cache, world / "images", *SLOW) for _ in range(2)]
    reads, seen = 0, set()
    while any(run.poll() is None for run in runs):
        try:
            reader = CacheReader(cache, verify="always")
        except MissingError:  # no plan yet
            time.sleep(0.01)
            continue
        except CacheError as error:  # a column of another moment, never a wrong value
            raise AssertionError(f"a cache under construction was refused: {error}") from None
        ready = [i for i in range(len(reader)) if reader.status(i) == "ok"]
        for i in ready:
            assert reader.features(i).tobytes() == want[i]
            assert reader.superpixels(i).rles == clean.superpixels(i).rles
        reads += len(ready)
        seen.add(len(ready))
    for run in runs:
        _, err = run.communicate(timeout=240)
        assert run.returncode == 0, err
    assert tree(cache) == tree(world / "clean")
    assert len(seen) > 1, "the reader came too late to see the cache grow"
    record_property("tried", reads)
