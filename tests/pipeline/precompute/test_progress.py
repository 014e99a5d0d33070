"""Counts, rate and what is printed: plain lines, nothing of a terminal's control codes."""

import errno
import json
import os
import time
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

from svp.pipeline.errors import CacheError
from svp.pipeline.executors.base import (
    BatchDone,
    Died,
    Done,
    Event,
    Failed,
    Finished,
    JobReport,
    Poisoned,
    Ready,
    Tick,
)
from svp.pipeline.precompute import progress
from svp.pipeline.precompute.progress import Progress, RunLog, Tally
from svp.pipeline.store import open_folder

EVIL = "a\x1b[31m[red]b\n\u202ec"


def done(images: int, **quarantined: int) -> Event:
    return Done(0, 0, report=JobReport(images, quarantined))


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_rate_and_time_left(clock: Clock) -> None:
    tally = Tally(total=200, before=40)
    assert tally.left_s is None and tally.line() == "40/200 images  loading models"
    tally.update(Ready(worker=0))
    assert tally.line() == "40/200 images  first images under way"
    clock.now += 8
    tally.update(done(32, truncated=2))
    assert tally.rate == 4.0
    assert tally.left_s == (200 - 40 - 32) / 4
    assert tally.line() == "72/200 images  4.0/s  ETA 0:32  truncated=2"


def test_images_of_runs_beside_this_one_count_and_hasten_the_end(clock: Clock) -> None:
    tally = Tally(total=200, before=40)
    tally.update(Ready(worker=0))
    clock.now += 4
    tally.update(done(16))
    clock.now += 4
    tally.others(64)
    assert (tally.images, tally.rate, tally.left_s) == (16, 10.0, 8.0)
    assert tally.line() == "120/200 images  10.0/s  ETA 0:08"


def told(shard: int, images: int, **quarantined: int) -> Event:
    return BatchDone(shard, 0, report=JobReport(images, quarantined))


def test_images_count_while_their_shard_is_under_way(clock: Clock) -> None:
    tally = Tally(total=64)
    tally.update(told(0, 8, empty=1))
    tally.update(told(1, 4))
    tally.update(told(0, 8, empty=1, missing=1))
    assert (tally.images, tally.shards) == (20, 0)
    assert tally.failures == {"empty": 2, "missing": 1}
    assert "20/64 images" in tally.line() and "empty=2  missing=1" in tally.line()
    tally.update(Failed(1, 0))
    assert tally.images == 16, "its images are computed again"
    tally.update(done(20, empty=2))
    assert (tally.images, tally.failures) == (20, {"empty": 2}), "the result counts, and once"


def test_the_rate_leaves_the_start_out_and_stays_between_batches(clock: Clock) -> None:
    tally = Tally(total=1000)
    clock.now += 60  # models are loaded
    tally.update(Ready(worker=0))
    assert tally.left_s is None
    for _ in range(5):
        clock.now += 10
        tally.update(told(0, 8))
        assert tally.rate == pytest.approx(0.8)
    for wait in (1, 5, 9.9):
        clock.now += wait
        assert tally.rate == pytest.approx(0.8), "a batch under way is no slowing down"
        clock.now -= wait
    clock.now += 60
    assert tally.rate == pytest.approx(40 / 100), "a batch that does not come is"


def test_the_rate_is_that_of_the_last_minutes(clock: Clock) -> None:
    tally = Tally(total=100_000)
    tally.update(Ready(worker=0))
    for _ in range(100):  # large photographs first
        clock.now += 10
        tally.update(told(0, 1))
    for _ in range(100):
        clock.now += 10
        tally.update(told(0, 10))
    assert tally.rate == pytest.approx(1.0)
    assert tally.left_s == pytest.approx(100_000 - 1100)


def test_failures_are_counted_by_cause() -> None:
    tally = Tally(10)
    for event in (done(4, empty=1), done(4, empty=1, missing=3), Died()):
        tally.update(event)
    assert tally.failures == {"empty": 2, "missing": 3}
    assert tally.line().endswith("empty=2  missing=3  worker_died=1")


def test_plain_lines_now_and_then(clock: Clock, logged: pytest.LogCaptureFixture) -> None:
    with Progress(Tally(10), every_s=10) as show:
        for second in range(25):
            clock.now = 100.0 + second
            show.update(Tick())
    loading = "0/10 images  loading models"
    assert logged.messages == [loading, loading, "0/10 images"], (
        "after 10 s, after 20 s, at the end"
    )


def test_nothing_controls_the_terminal(logged: pytest.LogCaptureFixture) -> None:
    with Progress(Tally(10)) as show:
        show.update(Failed(3, 0, EVIL.replace("\n", " ")))
        show.update(Poisoned(3, 0, row=2, reason="worker_died"))
    text = "".join(logged.messages)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31m[red]b" in text
    assert "shard 3: image poison: row 2, reason worker_died" in text


def test_log_files(tmp_path: Path) -> None:
    tally = Tally(10)
    log = RunLog(open_folder(tmp_path), tally)
    for event in (Tick(), told(0, 2), done(4, empty=1), Failed(1, 0, EVIL)):
        tally.update(event)
        log.update(event)
    log.update(Finished())
    lines = (tmp_path / "logs/events.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [
        "shard_done",
        "shard_failed",
        "finished",
    ]
    assert "\\u001b" not in lines[1], "escaped in the text itself, not only by JSON"
    status = json.loads((tmp_path / "logs/status.json").read_text())
    assert (status["state"], status["images"], status["failures"]) == ("finished", 4, {"empty": 1})


def test_a_log_that_cannot_be_written_has_the_remedy_of_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(open_folder(tmp_path), Tally(10))
    for code, remedy in (
        (errno.EACCES, r"status\.json: cannot be written: Permission denied: give another path"),
        (errno.ENOSPC, r"status\.json: No space left on device: .*free some space"),
    ):
        refused = OSError(code, os.strerror(code))
        monkeypatch.setattr(os, "fsync", Mock(side_effect=refused))
        with pytest.raises(CacheError, match=remedy):
            log.update(Finished())


def test_a_status_that_is_not_renewed_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunLog(open_folder(tmp_path), Tally(total=10)).status("running")
    path = tmp_path / "logs/status.json"
    mine = json.loads(path.read_text())
    written = datetime.fromisoformat(mine["time"]).timestamp()

    def state(after_s: float, **changes: object) -> str:
        path.write_text(json.dumps(mine | changes))
        monkeypatch.setattr(time, "time", lambda: written + after_s)
        found = progress.read_status(tmp_path)
        assert found is not None
        return str(found["state"])

    assert state(59, host="elsewhere") == "running"
    assert state(61, host="elsewhere") == "lost"
    assert state(61, host="elsewhere", state="finished") == "finished"
    assert state(61) == "running", "this process is still there: a batch takes long"
    assert state(61, time="2001-01-01T00:00:00+00:00") == "lost", (
        "the number belongs to another now"
    )
    assert state(61, pid=2**22 + 1) == "lost"
    for text in ("", "[]", "{", '{"state": "running", "time": "x", "pid": 1}'):
        path.write_text(text)
        assert progress.read_status(tmp_path) is None
    assert progress.read_status(tmp_path / "none") is None
    line = progress.status_line(mine | {"state": "lost"})
    assert "lost" in line and "0 of 10 images" in line and "finishes it" in line
