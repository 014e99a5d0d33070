"""Ray executor: workers as actors, one per GPU (or core), on this machine or on a cluster.

A Ray that a run starts has no dashboard, sends no usage statistics and, because its servers listen
on all interfaces whatever the settings, requires a token that only this run knows (CVE-2023-48022).
A cluster is joined only when `ray_address` names one.

No array crosses the object store: an actor writes its own shards and returns a few hundred bytes.
The scheduler replaces a dead actor (max_restarts=0, max_task_retries=0): Ray's own retries would
run a shard that crashes its worker again without counting the attempt.
"""

import importlib.util
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..display import shorten, show
from ..errors import CacheError, ConfigError, MissingPackageError
from .base import BatchDone, Died, Event, ExecutorOptions, Job, Pool, Task, retry_start
from .devices import usable_devices
from .scheduler import Executor
from .worker import WorkerRuntime, environment, thread_environment

LOOK_S = 0.5  # between two looks at what jobs reported


class Box:
    """An actor that keeps what jobs tell until the run takes it: a few hundred bytes a second."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        """Keep it."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """All that was put since the last call."""
        events, self._events = self._events, []
        return events


class RayWorkerRuntime(WorkerRuntime):
    """A `WorkerRuntime` whose jobs report progress through a `Box`, without waiting for it."""

    def __init__(self, task: Task, worker: int, threads: int, box: Any) -> None:
        super().__init__(task, worker, threads)
        self._box = box

    def last(self, job: Job) -> Event:
        """Do a job; its Done or Failed."""
        for event in self.do(job):
            if not isinstance(event, BatchDone):
                return event
            self._box.put.remote(event)
        raise AssertionError("a job ends with Done or Failed")


class RayPool:
    """`Pool` of actors; at most one call is under way per actor."""

    def __init__(self, task: Task, size: int, options: ExecutorOptions) -> None:
        import ray

        gpu, remote = options.device != "cpu", options.ray_address or None
        keeper: Any = ray.remote(Box)
        self._box: Any = keeper.options(num_cpus=0, max_restarts=0).remote()
        self._taken = self._box.take.remote()
        self._looked = time.monotonic()
        self._class = ray.remote(RayWorkerRuntime).options(
            num_cpus=0 if gpu else 1,
            num_gpus=1 if gpu else 0,
            max_restarts=0,
            max_task_retries=0,
            runtime_env=remote and {"env_vars": thread_environment(options.threads)},
        )
        self.size = size
        self._task, self._threads = task, options.threads
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        for worker in range(size):
            self._start(worker)

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`."""
        self._calls[self._actors[worker].last.remote(job)] = worker

    def wait(self, timeout: float) -> list[Event]:
        """See `Pool`."""
        import ray

        if not self._calls:
            return []
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout)
        return [*self._relay(), *(self._receive(call) for call in ready)]

    def restart(self, worker: int) -> None:
        """See `Pool`."""
        import ray

        ray.kill(self._actors[worker], no_restart=True)
        self._calls = {call: w for call, w in self._calls.items() if w != worker}
        self._start(worker)

    def close(self) -> None:
        """See `Pool`."""
        import ray

        for actor in (*self._actors.values(), self._box):
            ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._calls.clear()

    def _start(self, worker: int) -> None:
        self._actors[worker] = self._class.remote(self._task, worker, self._threads, self._box)
        self._calls[self._actors[worker].load.remote()] = worker

    def _relay(self) -> list[Event]:
        """Events reported by jobs since the last call; none once the box is lost with its node."""
        import ray

        if time.monotonic() - self._looked < LOOK_S or not ray.wait([self._taken], timeout=0)[0]:
            return []
        self._looked = time.monotonic()
        try:
            events: list[Event] = ray.get(self._taken)
        except ray.exceptions.RayActorError:
            return []
        self._taken = self._box.take.remote()
        return events

    def _receive(self, call: Any) -> Event:
        import ray

        worker = self._calls.pop(call)
        try:
            event = ray.get(call)
        except ray.exceptions.RayActorError as error:  # ActorUnavailableError is one of them
            return Died(worker=worker, detail=shorten(str(error), 500))
        assert isinstance(event, Event)
        return event


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
            yield RayPool(task, min(workers, max(1, shards)), self.options)


def init_options(options: ExecutorOptions, workers: int) -> dict[str, Any]:
    """Arguments of `ray.init`."""
    if options.ray_address:
        return {"address": options.ray_address, "log_to_driver": False}
    return {
        "address": "local",
        "num_cpus": workers,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "object_store_memory": max(80, options.memory_mb) * 2**20,
        "log_to_driver": False,
        "configure_logging": False,
    }


@contextmanager
def _connected(options: ExecutorOptions) -> Iterator[int]:
    """Join or start Ray; yields the number of workers to use."""
    _want_token(options)
    if not options.ray_address:
        require_folder(tempfile.gettempdir())
    with environment(_environment(options)):
        import ray

        if ray.is_initialized():
            raise CacheError("this process uses Ray already: run svp in a process of its own")
        local = len(usable_devices(options)) if not options.ray_address else 0
        handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
        retry_start("Ray", lambda: ray.init(**init_options(options, local)), ray.shutdown)
        try:
            _restore(handlers)  # Ray puts its own SIGTERM handler in place of the run's
            yield local or options.workers or _cluster_workers(options)
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


def _cluster_workers(options: ExecutorOptions) -> int:
    import ray

    resources: Callable[[], dict[str, float]] = ray.cluster_resources
    kind = "CPU" if options.device == "cpu" else "GPU"
    return max(1, int(resources().get(kind, 0)))
