"""Dask executor: workers as Dask processes, on this machine or on a cluster.

Futures carry a job and return a few hundred bytes. A process loads the models with its first job,
so that job's time limit includes the loading.

A Dask scheduler has no authentication: the one a run starts listens on 127.0.0.1 only and has no
dashboard. Retries are the run's: `allowed-failures` is 0, so that a worker's death is reported at
once instead of Dask running a shard that crashes its worker three more times.
"""

import importlib.util
import logging
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from typing import Any

from ..display import shorten
from ..errors import CacheError, MissingPackageError
from .base import (
    BatchDone,
    Died,
    Event,
    ExecutorOptions,
    Job,
    JobReport,
    Pool,
    Ready,
    Task,
    retry_start,
)
from .devices import usable_devices
from .scheduler import Executor
from .worker import WorkerRuntime, thread_environment

START_S = 60  # for a process to come, or to come back
ANSWER_S = 2  # for a few hundred bytes of a finished job


def distributed_package() -> Any:
    """The package; it has no types."""
    import distributed

    return distributed


class DaskPool:
    """`Pool` whose workers are Dask processes by address; each holds at most one job of ours.

    A job is pinned to its process: Dask would otherwise queue two jobs behind each other while a
    nanny brings a process back, and the second would be blamed for the first one's crash.
    """

    def __init__(self, client: Any, task: Task, size: int, options: ExecutorOptions) -> None:
        self.size = size
        self._client, self._task, self._threads = client, task, options.threads
        self._run, self._count = f"svp-{os.urandom(4).hex()}", 0
        self._waiting = dict.fromkeys(range(size), time.monotonic())  # for a process, since when
        self._address: dict[int, str] = {}
        self._futures: dict[Any, int] = {}
        self._reports: deque[BatchDone] = deque()
        client.subscribe_topic(self._run, self._relay)

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`."""
        self._count += 1
        future = self._client.submit(
            _do,
            self._run,
            self._task,
            worker,
            self._threads,
            job,
            key=f"{self._run}-{self._count}-shard{job.shard}",
            workers=[self._address[worker]],
            pure=False,
            retries=0,
        )
        self._futures[future] = worker

    def wait(self, timeout: float) -> list[Event]:
        """See `Pool`. Raises CacheError when the scheduler is gone."""
        distributed = distributed_package()
        if self._reports:
            return [self._reports.popleft() for _ in range(len(self._reports))]
        try:
            alive = set(self._client.nthreads())
            events = self._place(alive) + self._abandoned(alive)
            if events or not self._futures:
                time.sleep(0 if events else timeout)
                return events
            found = distributed.wait(list(self._futures), timeout, return_when="FIRST_COMPLETED")
        except TimeoutError:
            return []
        except OSError as error:  # distributed's CommClosedError is one
            raise CacheError(f"the Dask scheduler is gone: {shorten(str(error))}") from error
        received = [self._receive(future) for future in found.done]
        return [event for event in received if event]

    def restart(self, worker: int) -> None:
        """See `Pool`: end the process if it still holds a job; its nanny starts another."""
        for future in [f for f, w in self._futures.items() if w == worker]:
            del self._futures[future]
            self._client.restart_workers(
                [self._address[worker]], timeout=START_S, raise_for_error=False
            )
            future.cancel()
        self._address.pop(worker, None)
        self._waiting[worker] = time.monotonic()

    def close(self) -> None:
        """See `Pool`; the processes end with the cluster."""
        for future in self._futures:
            future.cancel()
        self._futures.clear()
        with suppress(OSError, ValueError):  # the scheduler may be gone
            self._client.unsubscribe_topic(self._run)

    def _relay(self, event: tuple[float, dict[str, Any]]) -> None:
        """Called in the client's own thread with what a job reported."""
        value = dict(event[1])
        worker, shard = value.pop("by"), value.pop("shard")
        known = {f.name: value[f.name] for f in fields(JobReport) if f.name in value}
        self._reports.append(BatchDone(shard, worker, report=JobReport(**known)))

    def _place(self, alive: set[str]) -> list[Event]:
        """Assign unused processes to the workers that wait for one."""
        free = sorted(alive - set(self._address.values()))
        new = dict(zip(sorted(self._waiting), free, strict=False))
        self._address |= new
        for worker in new:
            del self._waiting[worker]
        late = [w for w, since in self._waiting.items() if time.monotonic() - since > START_S]
        dead = [Died(worker=w, detail=f"no Dask worker within {START_S} s") for w in late]
        return [*(Ready(worker=worker) for worker in new), *dead]

    def _abandoned(self, alive: set[str]) -> list[Event]:
        """Jobs pinned to a process that ended before it got them: Dask would wait forever."""
        lost = [f for f, w in self._futures.items() if self._address[w] not in alive]
        lost = [future for future in lost if not future.done()]
        for future in lost:
            future.cancel()
        workers = [self._futures.pop(future) for future in lost]
        return [Died(worker=worker, detail="its Dask worker is gone") for worker in workers]

    def _receive(self, future: Any) -> Event | None:
        """Result of a job; None if its process does not answer yet.

        The answer lies in the process. If that died after the job, Dask would wait forever for
        another one under the same address.
        """
        distributed = distributed_package()
        worker = self._futures[future]
        try:
            event = future.result(timeout=ANSWER_S)
        except (distributed.scheduler.KilledWorker, distributed.client.FutureCancelledError) as why:
            event = Died(worker=worker, detail=shorten(str(why), 500))
        except TimeoutError:
            if self._address[worker] in self._client.nthreads():
                return None
            future.cancel()
            event = Died(worker=worker, detail="its Dask worker died with the answer")
        del self._futures[future]
        future.release()
        assert isinstance(event, Event)
        return event


_lock = threading.Lock()
_runtimes: dict[str, WorkerRuntime] = {}  # in a Dask worker: the models of the run it works for


def _do(run: str, task: Task, worker: int, threads: int, job: Job) -> Event:
    """A job inside a Dask worker; the lock keeps a worker of many threads to one job."""
    with _lock:
        if run not in _runtimes:
            _runtimes.clear()
            runtime = WorkerRuntime(task, worker, threads)
            loaded = runtime.load()
            if not runtime.loaded:
                return loaded
            _runtimes[run] = runtime
        for event in _runtimes[run].do(job):
            if not isinstance(event, BatchDone):
                return replace(event, worker=worker)
            report = {"by": worker, "shard": job.shard, **asdict(event.report)}
            distributed_package().get_worker().log_event(run, report)
    raise AssertionError("a job ends with Done or Failed")


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
    "distributed.logging": {"distributed": "error"},
}


class DaskExecutor(Executor):
    """Dask workers; raises MissingPackageError without dask and distributed."""

    def __init__(self, options: ExecutorOptions) -> None:
        super().__init__(options)
        if importlib.util.find_spec("distributed") is None:
            raise MissingPackageError("dask and distributed", "dask", "executor=dask")

    @contextmanager
    def connect(self, task: Task, shards: int) -> Iterator[Pool]:
        """See `Executor`."""
        with _connected(self.options) as (client, workers):
            yield DaskPool(client, task, min(workers, max(1, shards)), self.options)


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
            retry_start("Dask", lambda: distributed.LocalCluster(**arguments)) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client, len(devices)
