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
from typing import Any

import psutil
import pytest

from support.kill_trials import start, tree, until_shards
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
ENV = {"FAKE_RUN": json.dumps({"delay": 0.05})}  # what the cluster's workers inherit


def finish(run: subprocess.Popen[str]) -> dict[str, object]:
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    report: dict[str, object] = json.loads(out.splitlines()[-1])
    return report


@contextmanager
def cluster_environment() -> Iterator[None]:
    """Workers of the cluster find the fake models, and no token of an earlier local Ray."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENV.items():
            patch.setenv(name, value)
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.delenv(name, raising=False)
        yield


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """A head and a second node, as processes; yields (cluster, second node)."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with cluster_environment():
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False},
        )
        try:
            yield cluster, cluster.add_node(num_cpus=1)
        finally:
            cluster.shutdown()


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.timeout(900)
def test_a_ray_node_is_killed(replaced: bool, world: Path, tmp_path: Path) -> None:
    with ray_cluster() as (cluster, node):
        cluster.wait_for_nodes()
        run = start(
            tmp_path / "c", world / "images", "--executor", "ray", "--ray-address", cluster.address
        )
        until_shards(tmp_path / "c", 2, run)
        assert run.poll() is None, "the node must be lost while work is under way"
        cluster.remove_node(node, allow_graceful=False)
        if replaced:
            cluster.add_node(num_cpus=1)
        assert finish(run)["good"] == IMAGES
        assert tree(tmp_path / "c") == tree(world / "clean")


@contextmanager
def dask_cluster() -> Iterator[tuple[str, list[psutil.Process]]]:
    """A scheduler and two nannies, as `dask` starts them; yields address and nannies."""
    pytest.importorskip("distributed")
    with cluster_environment():
        commands = [sys.executable, "-m", "dask"]
        port = free_port()
        address = f"tcp://127.0.0.1:{port}"
        made = [
            subprocess.Popen(
                [
                    *commands,
                    "scheduler",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                    "--no-dashboard",
                ],
                stderr=subprocess.DEVNULL,
            )
        ]
        try:
            made += [
                subprocess.Popen(
                    [*commands, "worker", address, "--nworkers", "1", "--nthreads", "1",
                     "--memory-limit", "0", "--no-dashboard", "--name", f"machine-{number}"],
                    stderr=subprocess.DEVNULL,
                )
                for number in range(2)
            ]  # fmt: skip
            yield address, [psutil.Process(one.pid) for one in made[1:]]
        finally:
            for one in reversed(made):
                for child in psutil.Process(one.pid).children(recursive=True):
                    child.kill()
                one.kill()
                one.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("lost", ["worker", "machine"])
@pytest.mark.timeout(900)
def test_a_dask_worker_or_its_machine_is_killed(lost: str, world: Path, tmp_path: Path) -> None:
    """A nanny starts its killed worker again; a killed nanny takes its worker along for good."""
    with dask_cluster() as (address, nannies):
        run = start(
            tmp_path / "c", world / "images", "--executor", "dask", "--dask-scheduler", address
        )
        until_shards(tmp_path / "c", 2, run)
        assert run.poll() is None, "the worker must be lost while work is under way"
        workers = [
            p for p in nannies[0].children(recursive=True) if "spawn_main" in " ".join(p.cmdline())
        ]
        assert workers
        if lost == "machine":
            nannies[0].send_signal(signal.SIGKILL)
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        assert finish(run)["good"] == IMAGES
        assert tree(tmp_path / "c") == tree(world / "clean")


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
