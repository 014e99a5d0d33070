"""Workers as Ray actors: one per GPU (or core), on this machine or on a Ray cluster.

No array crosses the object store: an actor writes its own shards and returns a few hundred bytes.
A dead actor is replaced by us (max_restarts=0, max_task_retries=0): Ray's own retries would run a
poison shard again without anybody counting. A Ray of our own has no dashboard, sends no usage
statistics and, because its servers listen on all interfaces whatever one asks, wants a token that
only this run knows (CVE-2023-48022). A cluster is joined only when `ray_address` says so.
"""

import importlib.util
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import CacheError, MissingPackageError
from ..text import shorten
from .base import Event, ExecutorOptions, Job, Outcome, Summary, Task
from .devices import usable_devices
from .drive import drive
from .worker import Life, environment, thread_environment


class RayExecutor:
    """Ray actors; raises MissingPackageError without Ray."""

    def __init__(self, options: ExecutorOptions) -> None:
        if importlib.util.find_spec("ray") is None:
            raise MissingPackageError("ray", "ray", "executor=ray")
        self.options = options

    def run(
        self,
        task: Task,
        shards: Sequence[int],
        on_event: Callable[[Event], None],
        *,
        max_tries: int = 3,
        shard_timeout_s: float | None = None,
    ) -> Summary:
        """See `drive.drive`. Ends the Ray it started, and only that."""
        with _connected(self.options) as workers:
            return drive(
                RayPool(task, min(workers, max(1, len(shards))), self.options),
                task,
                shards,
                on_event,
                max_tries=max_tries,
                shard_timeout_s=shard_timeout_s,
            )


def init_options(options: ExecutorOptions, workers: int) -> dict[str, Any]:
    """Arguments of `ray.init` (T27)."""
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
    with environment(_environment(options)):
        import ray

        if ray.is_initialized():
            raise CacheError("this process uses Ray already: run svp in a process of its own")
        local = len(usable_devices(options)) if not options.ray_address else 0
        handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            ray.init(**init_options(options, local))
        except (ConnectionError, RuntimeError, OSError) as error:
            raise CacheError(f"Ray did not start: {shorten(str(error), 500)}") from error
        try:
            _restore(handlers)  # Ray puts its own SIGTERM handler in place of the run's
            yield local or options.workers or _cluster_workers(options)
        finally:
            ray.shutdown()
            _restore(handlers)


def _want_token(options: ExecutorOptions) -> None:
    """Guard our own Ray by a token. Ray reads the variables when first imported, then never."""
    if not (options.ray_address or "ray" in sys.modules or "RAY_AUTH_MODE" in os.environ):
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _environment(options: ExecutorOptions) -> dict[str, str]:
    """What the servers and workers of a Ray of our own inherit."""
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


class RayPool:
    """`Pool` of actors; at most one call is under way per actor."""

    def __init__(self, task: Task, size: int, options: ExecutorOptions) -> None:
        import ray

        gpu, remote = options.device != "cpu", options.ray_address or None
        self._class = ray.remote(Life).options(
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
        self._calls[self._actors[worker].do.remote(job)] = worker

    def wait(self, timeout: float) -> list[Outcome]:
        """See `Pool`."""
        import ray

        if not self._calls:
            return []
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout)
        return [self._receive(call) for call in ready]

    def restart(self, worker: int) -> None:
        """See `Pool`."""
        import ray

        ray.kill(self._actors[worker], no_restart=True)
        self._calls = {call: w for call, w in self._calls.items() if w != worker}
        self._start(worker)

    def close(self) -> None:
        """See `Pool`."""
        import ray

        for actor in self._actors.values():
            ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._calls.clear()

    def _start(self, worker: int) -> None:
        self._actors[worker] = self._class.remote(self._task, worker, self._threads)
        self._calls[self._actors[worker].load.remote()] = worker

    def _receive(self, call: Any) -> Outcome:
        import ray

        worker = self._calls.pop(call)
        try:
            outcome = ray.get(call)
        except ray.exceptions.RayActorError as error:  # ActorUnavailableError is one of them
            return Outcome(worker, "died", detail=shorten(str(error), 500))
        assert isinstance(outcome, Outcome)
        return outcome
