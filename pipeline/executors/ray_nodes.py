"""Nodes of a Ray cluster that was joined: capacity for workers, nodes that drain or are gone.

Calls to the head hang while it is gone, until Ray itself ends this process after a minute. So a
thread asks, and who reads is told when it has not answered for too long.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import CacheError
from .base import reachable

LOOK_S = 2.0  # between two looks
GONE_S = 40.0  # without an answer: Ray would end this process without a word after 60

_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}


@dataclass(frozen=True)
class Look:
    """The nodes at one moment: resources by id of those in use, and the ids of the others."""

    nodes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()


def look() -> Look:
    """Ask the head."""
    import ray
    from ray._private.state import state  # draining nodes have no public list without a dashboard

    nodes: Any = ray.nodes
    told = nodes()
    draining = frozenset(state.get_draining_nodes())
    alive = {one["NodeID"]: one["Resources"] for one in told if one["Alive"]}
    gone = frozenset(one["NodeID"] for one in told) - alive.keys()
    return Look({n: alive[n] for n in alive.keys() - draining}, draining, gone)


class Nodes:
    """The latest `Look`, renewed by a thread until `close`."""

    def __init__(
        self, ask: Callable[[], Look] = look, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = ask, clock
        self._look, self._seen = ask(), clock()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def capacity(self, request: Mapping[str, Any], avoided: set[str]) -> int:
        """Number of workers with this `request` that the nodes in use hold, were they empty."""
        nodes = self._latest().nodes
        return sum(fitting(request, nodes[node]) for node in nodes.keys() - avoided)

    def draining(self) -> frozenset[str]:
        """Ids of nodes that are about to leave the cluster."""
        return self._latest().draining

    def gone(self) -> frozenset[str]:
        """Ids of nodes that left it."""
        return self._look.gone

    def head_answers(self) -> bool:
        """Whether the head takes connections: to make an actor without it hangs."""
        import ray

        return reachable(ray.get_runtime_context().gcs_address)

    def close(self) -> None:
        """End the thread."""
        self._over.set()

    def _latest(self) -> Look:
        """Raises CacheError if the head has not answered for `GONE_S`."""
        if (silent := self._clock() - self._seen) > GONE_S:
            raise CacheError(
                f"the head of the Ray cluster has not answered for {silent:.0f} s. Committed "
                "shards are kept: start the cluster again and give the same command again"
            )
        return self._look

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                self._look = self._ask()
            except Exception:  # noqa: BLE001, S112  no answer: `_latest` tells for how long
                continue
            self._seen = self._clock()


def fitting(request: Mapping[str, Any], resources: Mapping[str, float]) -> int:
    """Number of workers with this `request` that fit into the resources of one node.

    >>> fitting({"num_cpus": 2, "num_gpus": 0.5}, {"CPU": 9, "GPU": 2})
    4
    """
    kind = request.get("accelerator_type")
    if kind and f"accelerator_type:{kind}" not in resources:
        return 0
    shares = [
        resources.get(_NAMES[name], 0.0) / amount
        for name, amount in request.items()
        if name in _NAMES and amount
    ]
    return int(min(shares, default=0.0) + 1e-9)


def place_name(node: str, host: str) -> str:
    """Name of a node for people; several nodes may be on one host."""
    return f"{host} (node {node[:8]})"
