"""Workers as Dask processes: on this machine or on a Dask cluster.

A scheduler has no authentication: ours listens on 127.0.0.1 only and has no dashboard (T28).
Retries are ours: `allowed-failures` is 0, so that a worker's death comes back at once instead of
Dask running the poison shard three more times.
"""

import importlib.util
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CacheError, MissingPackageError
from ..text import shorten
from .base import ExecutorOptions, Pool, Task
from .dask_pool import START_S, DaskPool, distributed_package
from .devices import usable_devices
from .drive import DrivenExecutor
from .starting import started
from .worker import thread_environment

# spec: work stealing kills workers on long jobs (distributed#7523), so does a time to live when
# the event loop is blocked (#8537). A local cluster would drop a nanny whose worker happens to be
# down some seconds after an earlier death.
CONFIG: dict[str, Any] = {
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-ttl": None,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.deploy.lost-worker-timeout": "10000h",
    "distributed.admin.tick.limit": "1h",
    "distributed.logging": {"distributed": "error"},
}


class DaskExecutor(DrivenExecutor):
    """Dask workers; raises MissingPackageError without dask and distributed."""

    def __init__(self, options: ExecutorOptions) -> None:
        super().__init__(options)
        if importlib.util.find_spec("distributed") is None:
            raise MissingPackageError("dask and distributed", "dask", "executor=dask")

    @contextmanager
    def connect(self, task: Task, shards: int) -> Iterator[Pool]:
        """See `DrivenExecutor`."""
        with _connected(self.options) as (client, workers):
            yield DaskPool(client, task, min(workers, max(1, shards)), self.options)


def cluster_options(options: ExecutorOptions, workers: int, folder: str) -> dict[str, Any]:
    """Arguments of `LocalCluster` (T28)."""
    return {
        "n_workers": workers,
        "threads_per_worker": 1,
        "processes": True,
        "host": "127.0.0.1",
        "dashboard_address": None,
        "worker_dashboard_address": None,
        "memory_limit": 0,
        "local_directory": folder,
        "silence_logs": logging.CRITICAL,
        "env": thread_environment(options.threads),
    }


@contextmanager
def _connected(options: ExecutorOptions) -> Iterator[tuple[Any, int]]:
    """Join or start Dask; yields the client and the number of workers to use."""
    import dask

    distributed = distributed_package()
    with dask.config.set(CONFIG), tempfile.TemporaryDirectory(prefix="svp-dask-") as folder:
        if options.dask_scheduler:
            try:
                client = distributed.Client(options.dask_scheduler, timeout=START_S)
            except (OSError, ValueError) as error:
                raise CacheError(
                    f"no Dask scheduler at {shorten(options.dask_scheduler)}: {error}"
                ) from error
            with client:
                client.wait_for_workers(1, timeout=START_S)
                yield client, options.workers or len(client.scheduler_info(-1)["workers"])
            return
        devices = usable_devices(options)
        arguments = cluster_options(options, len(devices), folder)
        with (
            started("Dask", lambda: distributed.LocalCluster(**arguments)) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client, len(devices)
