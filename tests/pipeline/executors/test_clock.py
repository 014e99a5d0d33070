"""No byte of a cache depends on the time, the time zone, the locale or the hash seed."""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import fake_run
from support.kill_trials import start, tree
from svp.pipeline.io.atomic import FOREIGN_TEMP_AGE, machine, remove_stale


def test_a_jumping_clock_changes_nothing(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Every look at the clock gives another year; shards, rates and time limits do not care."""
    dice = random.Random(3)
    looks: list[float] = []

    def jump() -> float:
        looks.append(dice.uniform(0, 4e9))
        return looks[-1]

    fake_run.install(monkeypatch)
    monkeypatch.setattr(time, "time", jump)
    mine = tmp_path / "c" / "features" / "tiny-16" / "dino" / "c" / "0"
    mine.mkdir(parents=True)
    shutil.copytree(world / "clean" / "images", tmp_path / "c" / "images")
    shutil.copy(world / "clean" / "plan.json", tmp_path / "c")
    alive = mine / f"0.{machine()[:8]}-{os.getpid()}-9.partial"
    alive.write_bytes(b"under way")
    remove_stale(tmp_path / "c")
    assert alive.exists(), "the file of a living writer of this machine was deleted"
    alive.unlink()
    report = fake_run.run(tmp_path / "c", world / "images")
    assert report.complete and not report.failed
    assert tree(tmp_path / "c") == tree(world / "clean")
    record_property("tried", max(1, len(looks)))


def test_another_machines_files_wait_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that runs backwards never makes a foreign file old."""
    path = tmp_path / "0.ffffffff-1-3.partial"
    path.write_bytes(b"x")
    for ahead, gone in (
        (-1e9, False),
        (FOREIGN_TEMP_AGE - 60, False),
        (FOREIGN_TEMP_AGE + 60, True),
    ):
        now = path.lstat().st_mtime + ahead
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            assert bool(remove_stale(tmp_path)) is gone


def test_another_time_zone_changes_no_byte(world: Path, tmp_path: Path) -> None:
    odd = {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}
    run = start(tmp_path / "ein Ordner ü", world / "images", **odd)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert tree(tmp_path / "ein Ordner ü") == tree(world / "clean")
