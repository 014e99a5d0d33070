"""Local executor (the default): one spawned process and one pipe per worker.

Not multiprocessing.Pool (waits forever after a worker's `kill -9`) and not ProcessPoolExecutor
(fails all pending work). The parent waits on the pipes and on the processes themselves, so a dead
worker is noticed at once. Processes are spawned, never forked: libraries hold threads and locks.

With 0 workers, jobs run in the calling process one after another: for debuggers, profilers and tiny
runs. There nothing is isolated: a job that kills its process ends the run, and a hung job hangs it.
Its progress is delivered at once, and a listener may stop the run by raising.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from ..weights.rehearsal import rehearsal_settings
from .base import Died, Event, ExecutorOptions, Job, Pool, Task
from .devices import usable_devices
from .scheduler import Executor
from .worker import Setup, WorkerRuntime, environment, serve, thread_environment


class InlinePool(Pool):
    """`Pool` of one worker that is this process."""

    def __init__(self, task: Task, options: ExecutorOptions) -> None:
        self._setup = Setup.of(task, options)
        self._runtime: WorkerRuntime | None = None
        self._events: Iterator[Event] = iter(())  # of the job under way

    def capacity(self) -> int:
        """See `Pool`."""
        return 1

    def start(self, worker: int) -> None:
        """See `Pool`: the models are loaded by the next call of `wait`."""
        self._runtime, self._events = WorkerRuntime(self._setup), iter(())

    def stop(self, worker: int) -> None:
        """See `Pool`."""
        self._runtime = None

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`: the job is done by the next calls of `wait`."""
        assert self._runtime is not None
        self._events = self._runtime.do(job)

    def wait(self, timeout: float) -> list[Event]:
        """See `Pool`; takes as long as a batch."""
        if self._runtime is None:
            time.sleep(timeout)
            return []
        if not self._runtime.loaded:
            return [self._runtime.load()]
        return list(islice(self._events, 1))

    def close(self) -> None:
        """See `Pool`: nothing was started."""


GRACE_S = 5.0


class LocalExecutor(Executor):
    """One process per GPU, or per usable core without one; `workers=0` runs in this process."""

    def connect(self, task: Task, shards: int) -> AbstractContextManager[Pool]:
        """See `Executor`."""
        devices = usable_devices(self.options)
        rehearsal = rehearsal_settings()
        if self.options.workers == 0 or (rehearsal is not None and rehearsal.in_process):
            return nullcontext(InlinePool(task, self.options))
        return nullcontext(LocalPool(task, devices, self.options))


class LocalPool(Pool):
    """`Pool` of spawned processes; `devices` holds one environment per worker."""

    def __init__(
        self, task: Task, devices: Sequence[dict[str, str]], options: ExecutorOptions
    ) -> None:
        self._setup, self._devices = Setup.of(task, options), devices
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}

    def capacity(self) -> int:
        """See `Pool`."""
        return len(self._devices)

    def start(self, worker: int) -> None:
        """See `Pool`."""
        parent, child = self._context.Pipe()
        process = self._context.Process(
            target=serve,
            args=(child, replace(self._setup, worker=worker)),
            name=f"svp-worker-{worker}",
            daemon=True,
        )
        with environment(thread_environment(self._setup.threads) | self._devices[worker]):
            process.start()
        child.close()  # else the pipe would stay open when the worker dies
        self._workers[worker] = process, parent

    def stop(self, worker: int) -> None:
        """See `Pool`."""
        process, conn = self._workers.pop(worker)
        process.kill()
        process.join(GRACE_S)
        conn.close()

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`. A worker that died in between is reported by the next `wait`."""
        with suppress(OSError):
            self._workers[worker][1].send(job)

    def wait(self, timeout: float) -> list[Event]:
        """See `Pool`."""
        if not self._workers:  # all rest
            time.sleep(timeout)
            return []
        pipes = {conn: worker for worker, (_, conn) in self._workers.items()}
        ends = {process.sentinel: worker for worker, (process, _) in self._workers.items()}
        ready = wait([*pipes, *ends], timeout)
        # A dead worker's pipe is readable too: its last message, or the end of file.
        found = {pipes[r] if isinstance(r, Connection) else ends[r] for r in ready}  # type: ignore[index]
        return [self._receive(worker) for worker in sorted(found)]

    def close(self) -> None:
        """Kill all workers: a job not committed is dropped, files under way stay temporary."""
        for process, _ in self._workers.values():
            process.kill()
        for worker in list(self._workers):
            self.stop(worker)

    def _receive(self, worker: int) -> Event:
        process, conn = self._workers[worker]
        with suppress(EOFError, OSError):
            if conn.poll():
                event = conn.recv()
                assert isinstance(event, Event)
                return event
        process.join(GRACE_S)
        code = process.exitcode
        cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return Died(worker=worker, detail=f"worker ended by {cause}")
