"""Runs on clusters whose machines come and go, have another svp, or lose their head.

The scheduler's own decisions are in test_scheduler.py, without processes.
"""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import fake_run
from support.clusters import bare_python, dask_machines, ray_machines
from support.kill_trials import command, start, tree, until_shards


def events(cache: Path) -> list[dict[str, Any]]:
    path = cache / "logs" / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def until(what: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    """Wait until it is so; the run must still be at work then."""
    while not what():
        assert run.poll() is None, run.communicate()
        time.sleep(0.2)


def ready_on(cache: Path, node: str) -> bool:
    found = [one for one in events(cache) if one["kind"] == "worker_ready"]
    return any(f"node {node[:8]}" in one["result"]["place"] for one in found)


def done_by(cache: Path) -> set[int]:
    return {one["worker"] for one in events(cache) if one["kind"] == "shard_done"}


def finish(run: subprocess.Popen[str]) -> None:
    _, err = run.communicate(timeout=400)
    assert run.returncode == 0, err


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `world`, with three times as many images: time for machines to come and go."""
    root = tmp_path_factory.mktemp("large")
    fake_run.write_images(root / "images", 120)
    subprocess.run(command(root / "clean", root / "images"), check=True, stdout=2)
    return root


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_nodes_are_left_out_join_and_drain(large: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    with ray_machines(delay=0.3) as machines:
        (good,) = machines.nodes()
        bare = machines.join(bare_python(tmp_path / "bare"))
        old = machines.join(bare_python(tmp_path / "old", versions={"pillow": "12.2.0"}))
        run = start(
            cache, large / "images", "--executor", "ray", "--ray-address", machines.address,
            "--workers", "-1",
        )  # fmt: skip
        out = "worker_left_out"
        until(lambda: [one["kind"] for one in events(cache)].count(out) == 2, run)
        late = machines.join()
        until(lambda: ready_on(cache, late), run)
        machines.drain(late)
        until(lambda: "worker_draining" in [one["kind"] for one in events(cache)], run)
        finish(run)
    assert tree(cache) == tree(large / "clean")
    told = events(cache)
    refused, missing = [one["detail"] for one in told if one["kind"] == out]
    assert f"node {old[:8]}" in refused and "pillow 12.2.0, not " in refused
    assert (
        f"node {bare[:8]}): ModuleNotFoundError: No module named 'svp': install svp on every"
        in missing
    )
    assert ready_on(cache, good) and not ready_on(cache, bare) and not ready_on(cache, old)
    # The draining worker finishes what it has: at most one shard after the notice.
    (drained,) = [one for one in told if one["kind"] == "worker_draining"]
    after = told[told.index(drained) :]
    done = [one for one in after if one["kind"] == "shard_done"]
    assert sum(one["worker"] == drained["worker"] for one in done) <= 1
    assert not [one for one in told if one["kind"] in ("shard_failed", "worker_died")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ray_node_without_svp_works_with_the_one_that_is_shipped(
    large: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "c"
    with ray_machines(delay=0.3) as machines:
        (head,) = machines.nodes()
        bare = machines.join(bare_python(tmp_path / "bare"))
        run = start(
            cache, large / "images", "--executor", "ray", "--ray-address", machines.address,
            "--ship",
        )  # fmt: skip
        finish(run)
    assert ready_on(cache, head) and ready_on(cache, bare)
    assert tree(cache) == tree(large / "clean")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_head_of_a_ray_cluster_is_killed(large: Path, tmp_path: Path) -> None:
    """Ray would end the process after a minute, without a word of ours."""
    cache = tmp_path / "c"
    with ray_machines(delay=2) as machines:
        run = start(
            cache, large / "images", "--executor", "ray", "--ray-address", machines.address,
            "--workers", "1",
        )  # fmt: skip
        until_shards(cache, 1, run)
        machines.kill_head()
        _, err = run.communicate(timeout=200)
    assert run.returncode == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: the head of the Ray cluster has not answered for 4"), err
    assert "Committed shards are kept: start the cluster again and give the same command" in last
    assert json.loads((cache / "logs/status.json").read_text())["state"] == "stopped"
    finish(start(cache, large / "images"))
    assert tree(cache) == tree(large / "clean")


@pytest.mark.timeout(900)
def test_a_dask_worker_joins_later_and_then_the_scheduler_is_killed(
    large: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "c"
    with dask_machines(1, delay=0.3) as machines:
        run = start(
            cache, large / "images", "--executor", "dask", "--dask-scheduler", machines.address,
            "--workers", "-1",
        )  # fmt: skip
        until_shards(cache, 1, run)
        machines.join()
        until(lambda: done_by(cache) == {0, 1}, run)
        machines.scheduler.kill()
        _, err = run.communicate(timeout=200)
    assert run.returncode == 1
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("error: the Dask scheduler is gone"), err
    assert "Committed shards are kept: start the cluster again and give the same command" in err
    assert json.loads((cache / "logs/status.json").read_text())["state"] == "stopped"
    finish(start(cache, large / "images"))
    assert tree(cache) == tree(large / "clean")
