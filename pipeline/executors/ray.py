"""Ray executor: workers as actors, one per GPU (or core), on this machine or on a cluster.

A Ray that a run starts has no dashboard, sends no usage statistics and, because its servers listen
on all interfaces whatever the settings, requires a token that only this run knows (CVE-2023-48022).
A cluster is joined only when `ray_address` names one.

No array crosses the object store: an actor writes its own shards and returns a few hundred bytes.
The scheduler replaces a dead actor (max_restarts=0, max_task_retries=0): Ray's own retries would
run a shard that crashes its worker again without counting the attempt.
"""

import importlib.util
import logging
import os
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..display import shorten, show
from ..errors import CacheError, ConfigError, MissingPackageError
from .base import (
    BatchDone,
    Died,
    Draining,
    Event,
    ExecutorOptions,
    Failed,
    Job,
    JobReport,
    Needs,
    Pool,
    Refused,
    Task,
    retry_start,
)
from .devices import usable_devices
from .ray_actor import actor_classes
from .ray_nodes import Nodes, place_name
from .scheduler import Executor
from .shipping import package_copy
from .worker import TRACEBACK, Setup, environment, thread_environment

LOOK_S = 0.5  # between two looks at what jobs reported


class RayPool(Pool):
    """`Pool` of actors; at most one call is under way per actor.

    Ray places the actors, so those that do not fit are what its autoscaler sees as demand. A node
    that is avoided is excluded by its label.
    """

    def __init__(self, task: Task, size: int | None, options: ExecutorOptions) -> None:
        """`size` workers; None: as many as fit, whenever a node joins."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        needs = task.needs
        self.elastic, self._size = options.ray_address is not None, size
        self._setup, self._name = Setup.of(task, options), needs.name
        self._request = resources(needs, options)
        self.asks = ", ".join(f"{name}={value:,}" if name == "memory" else f"{name}={value}"
                              for name, value in self._request.items())  # fmt: skip
        worker, box = actor_classes()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        keeper: Any = ray.remote(box)
        self._box: Any = keeper.options(
            num_cpus=0, max_restarts=0, scheduling_strategy=here
        ).remote()
        self._taken = self._box.take.remote()
        self._looked = time.monotonic()
        self._class: Any = ray.remote(worker)
        self._options = {"max_restarts": 0, "max_task_retries": 0, **self._request}
        if self.elastic:
            threads = thread_environment(options.threads)
            self._options["runtime_env"] = {"env_vars": threads}
        self._nodes = Nodes() if self.elastic else None
        self._places: dict[str, str] = {}  # name -> node id
        self._avoided: set[str] = set()  # node ids
        self._waiting: list[int] = []  # workers whose actor is still to be made
        self._starts: Counter[int] = Counter()
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        self._where: dict[int, tuple[str, str]] = {}  # worker -> node id, host
        self._leaving: set[int] = set()

    def capacity(self) -> int:
        """See `Pool`."""
        if self._size is not None or self._nodes is None:
            return self._size or 1
        return self._nodes.capacity(self._request, self._avoided)

    def start(self, worker: int) -> None:
        """See `Pool`."""
        self._waiting.append(worker)

    def stop(self, worker: int) -> None:
        """See `Pool`."""
        import ray

        if actor := self._actors.pop(worker, None):
            ray.kill(actor, no_restart=True)
        self._calls = {call: w for call, w in self._calls.items() if w != worker}
        self._waiting = [w for w in self._waiting if w != worker]
        self._where.pop(worker, None)
        self._leaving.discard(worker)

    def avoid(self, place: str) -> None:
        """See `Pool`."""
        if place in self._places:
            self._avoided.add(self._places[place])

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`."""
        self._calls[self._actors[worker].last.remote(job)] = worker

    def wait(self, timeout: float) -> list[Event]:
        """See `Pool`. Raises CacheError when the cluster's head is gone."""
        import ray

        if self._waiting and (self._nodes is None or self._nodes.head_answers()):
            waiting, self._waiting = self._waiting, []
            for worker in waiting:
                self._make(worker)
        ready: list[Any] = []
        if self._calls:
            ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout)
        else:
            time.sleep(timeout)
        events = [*self._relay(), *self._draining(), *map(self._receive, ready)]
        return [event for event in events if event]

    def close(self) -> None:
        """See `Pool`."""
        import ray

        if self._nodes:
            self._nodes.close()
        for actor in (*self._actors.values(), self._box):
            ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._calls.clear()

    def _make(self, worker: int) -> None:
        self._starts[worker] += 1
        again = f":{self._starts[worker]}" if self._starts[worker] > 1 else ""
        options = self._options | {"name": f"svp:{self._name}:{worker}{again}"}
        if self._avoided:
            options["label_selector"] = {
                "ray.io/node-id": f"!in({','.join(sorted(self._avoided))})"
            }
        actor = self._class.options(**options).remote()
        self._actors[worker] = actor
        self._calls[actor.hello.remote()] = worker

    def _relay(self) -> list[Event]:
        """Events reported by jobs since the last call; none once the box is lost with its node."""
        import ray

        if time.monotonic() - self._looked < LOOK_S or not ray.wait([self._taken], timeout=0)[0]:
            return []
        self._looked = time.monotonic()
        try:
            told = ray.get(self._taken)
        except ray.exceptions.RayActorError:
            return []
        self._taken = self._box.take.remote()
        return [BatchDone(shard, w, report=JobReport(**report)) for w, shard, report in told]

    def _draining(self) -> list[Event]:
        """Draining, once, for each worker whose node is about to leave the cluster."""
        if self._nodes is None:
            return []
        nodes = self._nodes.draining()
        new = {worker for worker, (node, _) in self._where.items() if node in nodes}
        new -= self._leaving
        self._leaving |= new
        return [Draining(worker=worker, detail=f"node {place_name(*self._where[worker])} drains",
                         place=place_name(*self._where[worker])) for worker in sorted(new)]  # fmt: skip

    def _receive(self, call: Any) -> Event | None:
        """Result of a call; None after the first one, which is followed by the next."""
        import ray

        worker = self._calls.pop(call)
        place = place_name(*self._where[worker]) if worker in self._where else ""
        try:
            answer = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            return Failed(worker=worker, detail=str(error)[-TRACEBACK:], place=place)
        except ray.exceptions.RayError as error:
            machine = self._machine_lost(worker, error)
            detail = shorten(str(error), 1000)
            return Died(worker=worker, detail=detail, place=place, machine=machine)
        if isinstance(answer, Event):
            return replace(answer, place=place)
        self._where[worker] = answer["node"], answer["host"]
        place = place_name(*self._where[worker])
        self._places[place] = answer["node"]
        if "error" in answer:
            hint = ": install svp on every machine, or add --ship"
            detail = answer["error"][-TRACEBACK:].strip() + hint
            return Failed(worker=worker, detail=detail, place=place)
        if answer["svp"] != self._setup.svp:
            return Refused(worker=worker, place=place, detail=(
                f"svp {answer['svp']} is installed, not {self._setup.svp} as where the run was "
                "started: install one version on every machine, or add --ship"
            ))  # fmt: skip
        setup = replace(self._setup, worker=worker)
        self._calls[self._actors[worker].load.remote(setup, self._box)] = worker
        return None

    def _machine_lost(self, worker: int, error: Exception) -> bool:
        """Whether an actor was lost with its node or its network, which is no fault of its job."""
        import ray

        if isinstance(error, ray.exceptions.ActorUnavailableError):
            return True
        node, _ = self._where.get(worker, ("", ""))
        gone = self._nodes is not None and node in self._nodes.gone()
        return gone or bool(getattr(error, "preempted", False))


SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


class RayExecutor(Executor):
    """Ray actors; raises MissingPackageError without Ray."""

    def __init__(self, options: ExecutorOptions) -> None:
        super().__init__(options)
        if importlib.util.find_spec("ray") is None:
            raise MissingPackageError("ray", "ray", "executor=ray")

    @contextmanager
    def connect(self, task: Task, shards: int) -> Iterator[Pool]:
        """See `Executor`."""
        with _connected(self.options) as workers:
            yield RayPool(task, workers, self.options)


def resources(needs: Needs, options: ExecutorOptions) -> dict[str, Any]:
    """Resources of one actor; memory only on a cluster, whose nodes others share."""
    request: dict[str, Any] = {"num_cpus": options.threads}
    if options.device != "cpu":
        request["num_gpus"] = options.gpus_per_worker or 1
    if options.ray_address and needs.memory:
        request["memory"] = needs.memory
    if options.require_gpu:
        request["accelerator_type"] = options.require_gpu
    return request


def init_options(options: ExecutorOptions, workers: int) -> dict[str, Any]:
    """Arguments of `ray.init`."""
    if options.ray_address:
        return {
            "address": options.ray_address,
            "log_to_driver": False,
            "logging_level": logging.WARNING,
        }
    return {
        "address": "local",
        "num_cpus": workers * options.threads,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "object_store_memory": max(80, options.memory_mb) * 2**20,
        "log_to_driver": False,
        "configure_logging": False,
    }


@contextmanager
def _connected(options: ExecutorOptions) -> Iterator[int | None]:
    """Join or start Ray; yields the number of workers to use, None: as many as fit."""
    _want_token(options)
    if not options.ray_address:
        require_folder(tempfile.gettempdir())
    with environment(_environment(options)), tempfile.TemporaryDirectory(prefix="svp-") as folder:
        import ray

        if ray.is_initialized():
            raise CacheError("this process uses Ray already: run svp in a process of its own")
        local = len(usable_devices(options)) if not options.ray_address else 0
        handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
        arguments = init_options(options, local)
        if options.ship:  # Ray takes a folder only for all workers of a run at once
            arguments["runtime_env"] = {"py_modules": [str(package_copy(Path(folder)))]}
        retry_start("Ray", lambda: ray.init(**arguments), ray.shutdown)
        try:
            _restore(handlers)  # Ray puts its own SIGTERM handler in place of the run's
            yield local or options.workers
        finally:
            ray.shutdown()
            _restore(handlers)


def require_folder(folder: str) -> None:
    """Refuse a temporary folder under which Ray cannot name its sockets. Raises ConfigError.

    Ray takes ASCII only. It puts `ray/session_<date>_<time>_<pid>/sockets/plasma_store` there,
    and a socket's path ends at 107 bytes on Linux, 103 on macOS.
    """
    chosen = os.environ.get("RAY_TMPDIR") or folder
    path = os.path.join(os.path.realpath(chosen), SOCKET)
    limit = 103 if sys.platform == "darwin" else 107
    if (excess := len(os.fsencode(path)) - limit) > 0:
        raise ConfigError(
            f"executor=ray: the temporary folder {show(chosen, 200)} is {excess} bytes too long for "
            "Ray's sockets: set a shorter one, such as TMPDIR=/tmp, or use --executor local"
        )
    if not path.isascii():
        raise ConfigError(
            f"executor=ray: the temporary folder {show(chosen, 200)} is not ASCII, which Ray cannot "
            "use: set another one, such as TMPDIR=/tmp, or use --executor local"
        )


def _want_token(options: ExecutorOptions) -> None:
    """Guard our own Ray by a token. Ray reads the variables when first imported, then never."""
    if not (options.ray_address or "ray" in sys.modules or "RAY_AUTH_MODE" in os.environ):
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _environment(options: ExecutorOptions) -> dict[str, str]:
    """Environment of the servers and workers of a Ray cluster that a run starts."""
    if options.ray_address:
        return {}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return thread_environment(options.threads) | {
        "PYTHONPATH": path,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
