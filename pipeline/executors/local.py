"""Local executor (the default): one spawned process and one pipe per worker.

Not multiprocessing.Pool (waits forever after a worker's `kill -9`) and not ProcessPoolExecutor
(fails all pending work). The parent waits on the pipes and on the processes themselves, so a dead
worker is noticed at once. Processes are spawned, never forked: libraries hold threads and locks.

With 0 workers, jobs run in the calling process one after another: for debuggers, profilers and tiny
runs. There nothing is isolated: a job that kills its process ends the run, and a hung job hangs it.
Its progress is delivered at once, and a listener may stop the run by raising.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from ..weights.rehearsal import dial
from .base import Died, Event, Job, Pool, Task
from .devices import usable_devices
from .scheduler import Executor
from .worker import WorkerRuntime, environment, serve, thread_environment


class InlinePool:
    """`Pool` of one worker that is this process."""

    size = 1

    def __init__(self, task: Task, threads: int) -> None:
        self._task, self._threads = task, threads
        self._events: Iterator[Event]  # of the job under way
        self.restart(0)

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`: the job is done by the next calls of `wait`."""
        self._events = self._runtime.do(job)

    def wait(self, timeout: float) -> list[Event]:
        """See `Pool`; takes as long as a batch."""
        if not self._runtime.loaded:
            return [self._runtime.load()]
        return list(islice(self._events, 1))

    def restart(self, worker: int) -> None:
        """See `Pool`: load the models again."""
        self._runtime = WorkerRuntime(self._task, 0, self._threads)
        self._events = iter(())

    def close(self) -> None:
        """See `Pool`: nothing was started."""


GRACE_S = 5.0


class LocalExecutor(Executor):
    """One process per GPU, or per usable core without one; `workers=0` runs in this process."""

    def connect(self, task: Task, shards: int) -> AbstractContextManager[Pool]:
        """See `Executor`."""
        devices = usable_devices(self.options)
        rehearsal = dial()
        if self.options.workers == 0 or (rehearsal is not None and rehearsal.in_process):
            return nullcontext(InlinePool(task, self.options.threads))
        return nullcontext(LocalPool(task, devices[: max(1, shards)], self.options.threads))


class LocalPool:
    """`Pool` of spawned processes; `devices` holds one environment per worker."""

    def __init__(self, task: Task, devices: Sequence[dict[str, str]], threads: int) -> None:
        self.size = len(devices)
        self._task, self._devices, self._threads = task, devices, threads
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        for worker in range(self.size):
            self._start(worker)

    def submit(self, worker: int, job: Job) -> None:
        """See `Pool`. A worker that died in between is reported by the next `wait`."""
        with suppress(OSError):
            self._workers[worker][1].send(job)

    def wait(self, timeout: float) -> list[Event]:
        """See `Pool`."""
        pipes = {conn: worker for worker, (_, conn) in self._workers.items()}
        ends = {process.sentinel: worker for worker, (process, _) in self._workers.items()}
        ready = wait([*pipes, *ends], timeout)
        # A dead worker's pipe is readable too: its last message, or the end of file.
        found = {pipes[r] if isinstance(r, Connection) else ends[r] for r in ready}  # type: ignore[index]
        return [self._receive(worker) for worker in sorted(found)]

    def restart(self, worker: int) -> None:
        """See `Pool`."""
        self._end(worker)
        self._start(worker)

    def close(self) -> None:
        """Kill all workers: a job not committed is dropped, files under way stay temporary."""
        for process, _ in self._workers.values():
            process.kill()
        for worker in list(self._workers):
            self._end(worker)

    def _start(self, worker: int) -> None:
        parent, child = self._context.Pipe()
        process = self._context.Process(
            target=serve,
            args=(child, self._task, worker, self._threads),
            name=f"svp-worker-{worker}",
            daemon=True,
        )
        with environment(thread_environment(self._threads) | self._devices[worker]):
            process.start()
        child.close()  # else the pipe would stay open when the worker dies
        self._workers[worker] = process, parent

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

    def _end(self, worker: int) -> None:
        process, conn = self._workers.pop(worker)
        process.kill()
        process.join(GRACE_S)
        conn.close()
