"""Dask executor: workers as Dask processes, on this machine or on a cluster.

Futures carry a job and return a few hundred bytes; the first one of a process checks its versions
and loads the models. On a cluster that was joined, processes may come and go at any time.
"""

import importlib.util
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from ..display import shorten
from ..errors import CacheError, MissingPackageError
from .base import (
    BatchDone,
    Died,
    Draining,
    Event,
    ExecutorOptions,
    Failed,
    Job,
    JobReport,
    Pool,
    Task,
    reachable,
)
from .dask_cluster import START_S, connected
from .dask_worker import distributed_package, do, load
from .scheduler import Executor
from .worker import TRACEBACK, Setup

LOOK_S = 0.5  # between two looks at the processes of the cluster
ANSWER_S = 2  # for a few hundred bytes of a finished job


class DaskPool(Pool):
    """`Pool` whose workers are Dask processes by address; each holds at most one job of ours.

    A job is pinned to its process: Dask would otherwise queue two jobs behind each other while a
    nanny brings a process back, and the second would be blamed for the first one's crash.
    """

    def __init__(self, client: Any, task: Task, size: int | None, options: ExecutorOptions) -> None:
        """`size` workers; None: one per process, whenever one joins."""
        self.elastic = options.dask_scheduler is not None
        self._client, self._size, self._setup = client, size, Setup.of(task, options)
        self._run, self._count = f"svp-{os.urandom(4).hex()}", 0
        self._waiting: set[int] = set()  # workers without a process
        self._address: dict[int, str] = {}
        self._process: dict[int, Process] = {}  # of each worker, while it lived
        self._futures: dict[Any, int] = {}
        self._reports: deque[BatchDone] = deque()
        self._avoided: set[str] = set()
        self._leaving: set[int] = set()
        self._looked = -LOOK_S
        self._processes: dict[str, Process] = {}
        client.subscribe_topic(self._run, self._relay)

    def capacity(self) -> int:
        """See `Pool`."""
        if self._size is not None:
            return self._size
        with _told():
            processes = self._look().values()
        return sum(one.place not in self._avoided and not one.leaving for one in processes)

    def start(self, worker: int) -> None:
        """See `Pool`: the worker takes the next process that is free."""
        self._waiting.add(worker)

    def stop(self, worker: int) -> None:
        """See `Pool`: end the process if it still holds a job; its nanny starts another."""
        with _told():
            for future in [f for f, w in self._futures.items() if w == worker]:
                del self._futures[future]
                self._client.restart_workers(
                    [self._address[worker]], timeout=START_S, raise_for_error=False
                )
                future.cancel()
                self._looked = -LOOK_S
        self._waiting.discard(worker)
        self._leaving.discard(worker)
        self._address.pop(worker, None)

    def avoid(self, place: str) -> None:
        """See `Pool`."""
        self._avoided.add(place)

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`."""
        self._submit(worker, f"shard{job.shard}", do, job)

    def wait(self, timeout: float) -> list[Event]:
        """See `Pool`. Raises CacheError when the scheduler is gone."""
        distributed = distributed_package()
        if self._reports:
            return [self._reports.popleft() for _ in range(len(self._reports))]
        with _told():
            processes = self._look()
            self._place(processes)
            if events := self._abandoned(processes) + self._retired(processes):
                return events
            if not self._futures:
                time.sleep(timeout)
                return []
            try:
                distributed.wait(list(self._futures), timeout, return_when="FIRST_COMPLETED")
            except TimeoutError:
                return []
            except CancelledError:
                if self._client.status != "running":  # all are, with the scheduler
                    raise
            received = [self._receive(future) for future in list(self._futures) if future.done()]
            return [event for event in received if event]

    def close(self) -> None:
        """See `Pool`; the processes end with the cluster."""
        for future in self._futures:
            future.cancel()
        self._futures.clear()
        with suppress(OSError, ValueError):  # the scheduler may be gone
            self._client.unsubscribe_topic(self._run)

    def _submit(self, worker: int, what: str, function: Callable[..., Event], *more: Job) -> None:
        self._count += 1
        setup = replace(self._setup, worker=worker)
        with _told():
            future = self._client.submit(
                function,
                self._run,
                setup,
                *more,
                key=f"{self._run}-{self._count}-{what}",
                workers=[self._address[worker]],
                pure=False,
                retries=0,
            )
        self._futures[future] = worker

    def _relay(self, event: tuple[float, dict[str, Any]]) -> None:
        """Called in the client's own thread with what a job reported."""
        value = dict(event[1])
        worker, shard = value.pop("by"), value.pop("shard")
        known = {f.name: value[f.name] for f in fields(JobReport) if f.name in value}
        self._reports.append(BatchDone(shard, worker, report=JobReport(**known)))

    def _look(self) -> "dict[str, Process]":
        """Processes of the cluster by address, as the scheduler told within the last moment."""
        if time.monotonic() - self._looked >= LOOK_S:
            told = self._client.scheduler_info(-1)["workers"]
            self._processes = {address: Process.of(address, told[address]) for address in told}
            self._looked = time.monotonic()
        return self._processes

    def _place(self, processes: "dict[str, Process]") -> None:
        """Give unused processes to the workers that wait for one, to load their models."""
        used = set(self._address.values())
        free = [
            address
            for address, process in sorted(processes.items())
            if address not in used and process.place not in self._avoided and not process.leaving
        ]
        for worker, address in zip(sorted(self._waiting), free, strict=False):
            self._waiting.remove(worker)
            self._address[worker], self._process[worker] = address, processes[address]
            self._submit(worker, "start", load)

    def _abandoned(self, processes: "dict[str, Process]") -> list[Event]:
        """Jobs pinned to a process that ended before it got them: Dask would wait forever."""
        lost = [f for f, w in self._futures.items() if self._address[w] not in processes]
        lost = [future for future in lost if not future.done()]
        for future in lost:
            future.cancel()
        return [
            self._died(worker, "its Dask worker is gone") for worker in map(self._futures.pop, lost)
        ]

    def _retired(self, processes: "dict[str, Process]") -> list[Event]:
        """Draining, once, for each worker whose process the cluster is about to end."""
        new = {
            worker
            for worker, address in self._address.items()
            if address in processes and processes[address].leaving
        } - self._leaving
        self._leaving |= new
        return [
            Draining(
                worker=worker, detail="its Dask worker retires", place=self._process[worker].place
            )
            for worker in new
        ]

    def _died(self, worker: int, detail: str) -> Died:
        process = self._process[worker]
        return Died(
            worker=worker,
            detail=shorten(detail, 500),
            place=process.place,
            machine=process.machine_lost,
        )

    def _receive(self, future: Any) -> Event | None:
        """Result of a job; None if its process does not answer yet.

        The answer lies in the process. If that died after the job, Dask would wait forever for
        another one under the same address.
        """
        worker = self._futures[future]
        address, place = self._address[worker], self._process[worker].place
        event: Event
        if future.status == "cancelled":
            event = self._died(worker, "its job was cancelled")
        elif future.status == "error":
            error = future.exception(timeout=ANSWER_S)
            if isinstance(error, distributed_package().scheduler.KilledWorker):
                event = self._died(worker, str(error))
            else:  # the process could not even read the job
                text = "".join(traceback.format_exception(error))[-TRACEBACK:]
                event = Failed(worker=worker, detail=text, place=place)
        else:
            try:
                event = replace(future.result(timeout=ANSWER_S), place=place)
            except TimeoutError:
                if address in self._client.nthreads():
                    return None
                future.cancel()
                event = self._died(worker, "its process died with the answer")
        del self._futures[future]
        future.release()
        return event


@dataclass(frozen=True, slots=True)
class Process:
    """A Dask worker process.

    Its place stays the same when its nanny starts it again. A machine that comes back under the
    name of one that was left out is another place: it may be mended.
    """

    place: str
    nanny: str | None
    leaving: bool

    @classmethod
    def of(cls, address: str, told: dict[str, Any]) -> "Process":
        """From what the scheduler says of it."""
        name, nanny = str(told.get("name", address)), told.get("nanny")
        machine = str(nanny or address)
        place = machine if name == address else f"{name} ({machine})"
        return cls(place, nanny, told.get("status") == "closing_gracefully")

    @property
    def machine_lost(self) -> bool:
        """Whether its nanny is gone too: not the job, but the machine ended."""
        return self.nanny is not None and not reachable(self.nanny)


@contextmanager
def _told() -> Iterator[None]:
    """The loss of the scheduler as a CacheError."""
    try:
        yield
    except (OSError, CancelledError) as error:  # distributed's CommClosedError is an OSError
        why = f": {shorten(str(error), 300)}" if isinstance(error, OSError) else ""
        raise CacheError(
            f"the Dask scheduler is gone{why}. Committed shards are kept: start the cluster again "
            "and give the same command again"
        ) from error


class DaskExecutor(Executor):
    """Dask workers; raises MissingPackageError without dask and distributed."""

    def __init__(self, options: ExecutorOptions) -> None:
        super().__init__(options)
        if importlib.util.find_spec("distributed") is None:
            raise MissingPackageError("dask and distributed", "dask", "executor=dask")

    @contextmanager
    def connect(self, task: Task, shards: int) -> Iterator[Pool]:
        """See `Executor`."""
        with connected(self.options) as (client, workers):
            yield DaskPool(client, task, workers, self.options)
