"""Workers as Ray actors: one per GPU (or core), on this machine or on a Ray cluster.

A Ray of our own has no dashboard, sends no usage
statistics and, because its servers listen on all interfaces whatever one asks, wants a token that
only this run knows (CVE-2023-48022). A cluster is joined only when `ray_address` says so.
"""

import importlib.util
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CacheError, ConfigError, MissingPackageError
from ..text import show
from .base import ExecutorOptions, Pool, Task
from .devices import usable_devices
from .drive import DrivenExecutor
from .ray_pool import RayPool
from .starting import started
from .worker import environment, thread_environment

SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


class RayExecutor(DrivenExecutor):
    """Ray actors; raises MissingPackageError without Ray."""

    def __init__(self, options: ExecutorOptions) -> None:
        super().__init__(options)
        if importlib.util.find_spec("ray") is None:
            raise MissingPackageError("ray", "ray", "executor=ray")

    @contextmanager
    def connect(self, task: Task, shards: int) -> Iterator[Pool]:
        """See `DrivenExecutor`."""
        with _connected(self.options) as workers:
            yield RayPool(task, min(workers, max(1, shards)), self.options)


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
    if not options.ray_address:
        require_short_folder(tempfile.gettempdir())
    with environment(_environment(options)):
        import ray

        if ray.is_initialized():
            raise CacheError("this process uses Ray already: run svp in a process of its own")
        local = len(usable_devices(options)) if not options.ray_address else 0
        handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
        started("Ray", lambda: ray.init(**init_options(options, local)), ray.shutdown)
        try:
            _restore(handlers)  # Ray puts its own SIGTERM handler in place of the run's
            yield local or options.workers or _cluster_workers(options)
        finally:
            ray.shutdown()
            _restore(handlers)


def require_short_folder(folder: str) -> None:
    """Refuse a temporary folder under which Ray cannot name its sockets. Raises ConfigError.

    Ray puts `ray/session_<date>_<time>_<pid>/sockets/plasma_store` there, and a socket's path ends
    at 107 bytes on Linux, 103 on macOS.
    """
    chosen = os.environ.get("RAY_TMPDIR") or folder
    path = os.path.join(os.path.realpath(chosen), SOCKET)
    limit = 103 if sys.platform == "darwin" else 107
    if (excess := len(os.fsencode(path)) - limit) > 0:
        raise ConfigError(
            f"executor=ray: the temporary folder {show(chosen, 200)} is {excess} bytes too long for "
            "Ray's sockets: set a shorter one, such as TMPDIR=/tmp, or use --executor local"
        )


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
