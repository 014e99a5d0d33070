"""Runs that join a cluster which then loses a machine: the rest finishes, to the same bytes.

Two "machines" are two Ray nodes (raylets) or two Dask nannies with their workers, each with one
core; losing one is `kill -9` of its processes, which is what a machine's end looks like from afar.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from support.clusters import dask_cluster, ray_cluster
from support.kill_trials import start, tree, until_at_work, until_shards
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes

IMAGES = 40
HALVES = """
import numpy as np
from svp.pipeline.superpixels.external import superpixels

@superpixels("halves")
def halves(image):
    columns = np.arange(image.shape[1]) * 2 // image.shape[1]
    return np.tile(columns + 1, (image.shape[0], 1))
"""


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """Folder that names the workers that are at work."""
    (tmp_path / "busy").mkdir()
    return tmp_path / "busy"


def finish(run: subprocess.Popen[str]) -> dict[str, object]:
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    report: dict[str, object] = json.loads(out.splitlines()[-1])
    return report


def kinds(cache: Path) -> set[str]:
    lines = (cache / "logs" / "events.jsonl").read_text().splitlines()
    return {json.loads(line)["kind"] for line in lines}


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.timeout(900)
def test_a_ray_node_is_killed(replaced: bool, world: Path, tmp_path: Path, busy: Path) -> None:
    with ray_cluster(busy) as (cluster, node):
        cluster.wait_for_nodes()
        run = start(
            tmp_path / "c", world / "images", "--executor", "ray", "--ray-address", cluster.address
        )
        until_shards(tmp_path / "c", 1, run)
        raylet = node.all_processes["raylet"][0].process.pid
        own = [child.pid for child in psutil.Process(raylet).children(recursive=True)]
        at_work = until_at_work(busy, [own], run)
        assert at_work == 0, "the node must be lost while work is under way"
        cluster.remove_node(node, allow_graceful=False)
        if replaced:
            cluster.add_node(num_cpus=1)
        assert finish(run)["good"] == IMAGES
        assert tree(tmp_path / "c") == tree(world / "clean")
        assert "shard_requeued" in kinds(tmp_path / "c")
        assert "shard_failed" not in kinds(tmp_path / "c"), "a lost machine is no attempt"


@pytest.mark.parametrize("lost", ["worker", "machine"])
@pytest.mark.timeout(900)
def test_a_dask_worker_or_its_machine_is_killed(
    lost: str, world: Path, tmp_path: Path, busy: Path
) -> None:
    """A nanny starts its killed worker again; a killed nanny takes its worker along for good."""
    with dask_cluster(busy) as (address, nannies):
        run = start(
            tmp_path / "c", world / "images", "--executor", "dask", "--dask-scheduler", address
        )
        until_shards(tmp_path / "c", 1, run)
        workers = [
            [p for p in one.children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
            for one in nannies
        ]
        own = [[worker.pid for worker in group] for group in workers]
        at_work = until_at_work(busy, own, run)
        assert at_work is not None, "the worker must be lost while work is under way"
        if lost == "machine":
            nannies[at_work].send_signal(signal.SIGKILL)
        for worker in workers[at_work]:
            worker.send_signal(signal.SIGKILL)
        assert finish(run)["good"] == IMAGES
        assert tree(tmp_path / "c") == tree(world / "clean")
        attempt, not_one = "shard_failed", "shard_requeued"
        wanted = {not_one} if lost == "machine" else {attempt}
        assert kinds(tmp_path / "c") & {attempt, not_one} == wanted


@contextmanager
def ray_head() -> Iterator[list[str]]:
    with ray_cluster() as (cluster, _):
        yield ["--executor", "ray", "--ray-address", cluster.address]


@contextmanager
def dask_scheduler() -> Iterator[list[str]]:
    with dask_cluster() as (address, _):
        yield ["--executor", "dask", "--dask-scheduler", address]


@pytest.mark.parametrize("cluster", [ray_head, dask_scheduler])
@pytest.mark.timeout(900)
def test_workers_of_a_joined_cluster_load_the_plug_in(
    cluster: Callable[[], AbstractContextManager[list[str]]], tmp_path: Path
) -> None:
    """They were started before anyone named it, and inherit nothing of the run."""
    scenes = write_scenes(tmp_path / "scenes", images=2, seed=0)
    plugin = tmp_path / "halves.py"
    plugin.write_text(HALVES)
    with cluster() as options:
        run = subprocess.run(
            [sys.executable, "-m", "svp", "precompute", "--plugin", str(plugin), "--for", "look",
             "--superpixels", "halves", "--dataset", str(scenes), "--workers", "1", *options,
             "--quiet", "--out", str(tmp_path / "c")],
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    reader = CacheReader(tmp_path / "c")
    assert [len(reader.superpixels(row)) for row in range(2)] == [2, 2]
