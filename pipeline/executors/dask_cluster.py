"""Dask clusters: one that is joined, or one that a run starts on this machine.

A Dask scheduler has no authentication: the one a run starts listens on 127.0.0.1 only and has no
dashboard. Retries are the run's: `allowed-failures` is 0, so that a worker's death is reported at
once instead of Dask running a shard that crashes its worker three more times.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..display import shorten
from ..errors import CacheError
from .base import ExecutorOptions, retry_start
from .dask_worker import distributed_package
from .devices import usable_devices
from .worker import thread_environment

START_S = 60  # for the scheduler to answer, or a process to end

# Work stealing kills workers on long jobs (distributed#7523), so does a time to live when
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
}


def cluster_options(options: ExecutorOptions, workers: int, folder: str) -> dict[str, Any]:
    """Arguments of `LocalCluster`."""
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
def connected(options: ExecutorOptions) -> Iterator[tuple[Any, int | None]]:
    """Join or start Dask; yields the client and the number of workers, None: whatever is there."""
    import dask

    distributed = distributed_package()
    with (
        quiet(),
        dask.config.set(CONFIG),
        tempfile.TemporaryDirectory(prefix="svp-dask-") as folder,
    ):
        if options.dask_scheduler:
            try:
                client = distributed.Client(options.dask_scheduler, timeout=START_S)
            except (OSError, ValueError) as error:
                raise CacheError(
                    f"no Dask scheduler at {shorten(options.dask_scheduler)}: {error}"
                ) from error
            with client:
                yield client, options.workers or None
            return
        devices = usable_devices(options)
        arguments = cluster_options(options, len(devices), folder)
        with (
            retry_start("Dask", lambda: distributed.LocalCluster(**arguments)) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client, len(devices)


@contextmanager
def quiet() -> Iterator[None]:
    """Dask's own loggers, which print tracebacks of what is reported here in one line, are off."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
