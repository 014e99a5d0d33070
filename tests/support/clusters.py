"""Clusters on this machine: Ray heads and nodes, Dask schedulers and nannies, as processes.

A machine is a Ray node (raylet) or a Dask nanny with its worker, each with one core.
"""

import json
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import svp

DELAY = 0.2  # seconds for an image: a shard takes one, and both machines get some


@contextmanager
def cluster_environment(delay: float, busy: Path | None = None) -> Iterator[None]:
    """Workers of the cluster find the fake models, and no token of an earlier local Ray.

    delay  seconds that an image takes them
    busy   folder in which each that begins an image leaves its number
    """
    with pytest.MonkeyPatch.context() as patch:
        told = {"delay": delay, "busy": str(busy) if busy else ""}
        patch.setenv("FAKE_RUN", json.dumps(told))
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.delenv(name, raising=False)
        yield


class RayMachines:
    """A Ray cluster whose nodes join and leave; `cluster` is Ray's own helper."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.address = cluster, cluster.address
        self._joined: list[subprocess.Popen[bytes]] = []

    def nodes(self) -> set[str]:
        """Ids of the nodes that are alive."""
        return {n["NodeID"] for n in self.cluster.global_state.node_table() if n["Alive"]}

    def join(self, python: Path | str = sys.executable) -> str:
        """Start a node of one CPU; its id once it is there."""
        known = self.nodes()
        command = [str(python), "-m", "ray.scripts.scripts", "start", "--address", self.address]
        self._joined.append(
            subprocess.Popen(
                [*command, "--num-cpus", "1", "--object-store-memory", str(80 << 20), "--block"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        for _ in range(600):
            if new := self.nodes() - known:
                return new.pop()
            time.sleep(0.2)
        raise AssertionError("the node did not come")

    def drain(self, node: str) -> None:
        """Announce its end, as autoscalers do before a spot machine goes."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        soon = int(time.time() * 1000) + 25_000
        GcsClient(address=self.address).drain_node(node, reason, "spot", soon)

    def kill_head(self) -> None:
        """`kill -9` of the server that holds the cluster's state."""
        (server,) = self.cluster.head_node.all_processes["gcs_server"]
        server.process.kill()

    def close(self) -> None:
        """End all nodes."""
        for one in self._joined:
            end_tree(one)
        self.cluster.shutdown()


@contextmanager
def ray_machines(delay: float = 0.05, busy: Path | None = None) -> Iterator[RayMachines]:
    """A Ray head with one CPU."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with cluster_environment(delay, busy):
        head = {"num_cpus": 1, "include_dashboard": False}
        machines = RayMachines(Cluster(initialize_head=True, head_node_args=head))
        try:
            yield machines
        finally:
            machines.close()


@contextmanager
def ray_cluster(busy: Path | None = None) -> Iterator[Any]:
    """A head and a second node, as processes; yields (cluster, second node)."""
    with ray_machines(DELAY, busy) as machines:
        yield machines.cluster, machines.cluster.add_node(num_cpus=1)


class DaskMachines:
    """A Dask scheduler and its nannies, each with one worker of one thread."""

    def __init__(self) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        host, port = self.address.removeprefix("tcp://").split(":")
        self.scheduler = self._start("scheduler", "--host", host, "--port", port)
        self.nannies: list[subprocess.Popen[bytes]] = []

    def join(self) -> None:
        """Start a nanny."""
        self.nannies.append(
            self._start("worker", self.address, "--nworkers", "1", "--nthreads", "1",
                        "--memory-limit", "0", "--name", f"machine-{len(self.nannies)}")
        )  # fmt: skip

    def close(self) -> None:
        """End all of them."""
        for one in (*self.nannies, self.scheduler):
            end_tree(one)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *words, "--no-dashboard"]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@contextmanager
def dask_machines(
    nannies: int, delay: float = 0.05, busy: Path | None = None
) -> Iterator[DaskMachines]:
    """A Dask cluster."""
    pytest.importorskip("distributed")
    with cluster_environment(delay, busy):
        machines = DaskMachines()
        try:
            for _ in range(nannies):
                machines.join()
            yield machines
        finally:
            machines.close()


@contextmanager
def dask_cluster(busy: Path | None = None) -> Iterator[tuple[str, list[psutil.Process]]]:
    """A scheduler and two nannies; yields address and nannies."""
    with dask_machines(2, DELAY, busy) as machines:
        yield machines.address, [psutil.Process(one.pid) for one in machines.nannies]


def end_tree(root: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all it started."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(root.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    root.kill()
    root.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def bare_python(folder: Path, *, versions: dict[str, str] | None = None) -> Path:
    """A Python with the packages of this one.

    versions  of packages that seem to be installed in another version; None: svp itself is missing
    """
    venv.create(folder, with_pip=False)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # A folder that a .pth file adds is not searched for further ones: what is installed in place,
    # as svp is where tests run, is not found.
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "packages.pth").write_text("\n".join(paths) + "\n")
    if versions is not None:
        (packages / "svp").symlink_to(Path(svp.__file__).parent)
    for name, version in (versions or {}).items():
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder / "bin" / "python"
