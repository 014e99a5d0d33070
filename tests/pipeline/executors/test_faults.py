"""Whole runs, as programs, that are killed, signalled, starved of disk or run twice at once.

After each, a rerun must end byte for byte like the cache of an undisturbed run (logs left out).
"""

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from support import kill_trials
from support.kill_trials import orphans, start, tree, trial, until_shards

SLOW = ("--told", '{"delay": 0.02}')


@pytest.fixture(scope="module")
def clean(world: Path) -> dict[str, str]:
    return tree(world / "clean")


def finish(run: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = run.communicate(timeout=240)
    return run.returncode, out, err


def rerun(cache: Path, world: Path) -> dict[str, object]:
    code, out, err = finish(start(cache, world / "images"))
    assert code == 0, err
    report: dict[str, object] = json.loads(out)
    return report


def check(
    world: Path, tmp_path: Path, clean: dict[str, str], executor: str, kill: str, seed: int
) -> None:
    found = trial(tmp_path, world / "images", clean, kill=kill, executor=executor, seed=seed)
    assert found.rerun_exit == 0
    assert found.equal
    assert found.orphans == 0
    if kill == "worker":
        assert found.first_exit == 0, "the run itself survives a worker"


@pytest.mark.parametrize(("kill", "seed"), [("worker", 0), ("worker", 1), ("driver", 0)])
def test_kill_local(
    kill: str, seed: int, world: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    check(world, tmp_path, clean, "local", kill, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kill", ["worker", "driver"])
@pytest.mark.parametrize("executor", ["local", "ray", "dask"])
def test_kill_ten_times(
    executor: str, kill: str, seed: int, world: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    check(world, tmp_path, clean, executor, kill, seed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal(
    number: signal.Signals, code: int, world: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    run = start(tmp_path / "c", world / "images", *SLOW)
    until_shards(tmp_path / "c", 1, run)
    group = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    found, _, err = finish(run)
    assert found == code
    kept = f"error: stopped by {number.name}: committed shards are kept. "
    assert err.splitlines() == [f"{kept}To resume: svp precompute --resume"]
    assert orphans(group) == 0
    assert json.loads((tmp_path / "c/logs/status.json").read_text())["state"] == "stopped"
    assert 0 < rerun(tmp_path / "c", world)["computed"] < 40  # type: ignore[operator]
    assert tree(tmp_path / "c") == clean


def test_ctrl_c_reaches_the_whole_group(world: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    """A terminal signals the workers too: they leave it to the run."""
    import os

    run = start(tmp_path / "c", world / "images", *SLOW)
    until_shards(tmp_path / "c", 1, run)
    os.killpg(run.pid, signal.SIGINT)
    code, _, err = finish(run)
    assert (code, len(err.splitlines())) == (130, 1), err
    rerun(tmp_path / "c", world)
    assert tree(tmp_path / "c") == clean


@pytest.mark.parametrize(
    "point", ["dino:after-temp@2", "rle:before-rename@3", "manifest-features:after-rename@1"]
)
def test_worker_crashes_at_a_write_point(
    point: str, world: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    """It crashes there every time: the shard is abandoned (or was committed), the rest is not."""
    code, _, err = finish(start(tmp_path / "c", world / "images", SVP_CRASH_AT=point))
    committed = len(list(tmp_path.glob("c/features/*/manifest/*.json")))
    if point.startswith("manifest-features:after"):
        assert committed == 7, err
    else:
        assert (code, committed) == (1, 6), err
    rerun(tmp_path / "c", world)
    assert tree(tmp_path / "c") == clean


@pytest.mark.parametrize(
    "point", ["plan:after-temp", "index:before-rename", "complete:before-temp"]
)
def test_driver_crashes_at_a_write_point(
    point: str, world: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    code, _, _ = finish(start(tmp_path / "c", world / "images", SVP_CRASH_AT=point))
    assert code == -signal.SIGKILL
    assert rerun(tmp_path / "c", world)["computed"] == (40 if point.startswith("plan") else 0)
    assert tree(tmp_path / "c") == clean


def test_disk_full(world: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    """Writes of more than 700 bytes fail: a clear error, nothing half committed."""
    told = ("--told", '{"file_limit": 700}')
    code, _, err = finish(start(tmp_path / "c", world / "images", *told))
    assert code == 1
    assert "File too large" in err
    assert "free some space and run the same command again" in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("c/*/*/manifest/*.json"))
    assert rerun(tmp_path / "c", world)["computed"] == 40
    assert tree(tmp_path / "c") == clean


def test_two_runs_at_once(world: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    runs = [start(tmp_path / "c", world / "images", *SLOW) for _ in range(2)]
    for code, _, err in map(finish, runs):
        assert code == 0, err
    assert tree(tmp_path / "c") == clean
    lines = (tmp_path / "c/logs/events.jsonl").read_text().splitlines()
    assert all(json.loads(line)["kind"] for line in lines), "a line of the log was torn"


def test_trials_program_counts(world: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    """The trial must be able to fail: against another tree it is not equal."""
    wrong = clean | {"plan.json": "0"}
    found = kill_trials.trial(
        tmp_path, world / "images", wrong, kill="worker", executor="local", seed=3
    )
    assert not found.equal
