"""Worker process: main function, thread limits and running of jobs, for every executor.

A worker computes on as many threads as it was given (one by default), does not outlive the run
that started it, and ignores Ctrl-C, which that run handles.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

from ..errors import SvpError
from .base import BatchDone, Done, Event, Failed, Job, Ready, Task, Work

# Read by the numeric libraries when they are first imported: set before the process starts.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
)


def thread_environment(threads: int) -> dict[str, str]:
    """Environment of a process whose libraries may use `threads` threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def limit_threads(threads: int) -> None:
    """Hold the libraries already imported to `threads` threads. Call after the heavy imports."""
    os.environ.update(thread_environment(threads))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
        with suppress(RuntimeError):  # only possible before the first parallel work
            torch.set_num_interop_threads(threads)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(threads)
    if blosc := sys.modules.get("numcodecs.blosc"):
        blosc.set_nthreads(threads)
    if zarr := sys.modules.get("zarr"):
        zarr.config.set({"async.concurrency": threads, "threading.max_workers": threads})


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """`os.environ` with `values` while processes are started, then as before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def serve(conn: Connection, task: Task, worker: int, threads: int) -> None:
    """Main function of a spawned worker: load the models, then do jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group
    _die_with_parent()
    runtime = WorkerRuntime(task, worker, threads)
    conn.send(runtime.load())
    with suppress(EOFError, BrokenPipeError):
        while runtime.loaded:
            for event in runtime.do(conn.recv()):
                conn.send(event)


class WorkerRuntime:
    """State of a worker process: load the models once, then run jobs."""

    def __init__(self, task: Task, worker: int, threads: int) -> None:
        self._task, self._worker, self._threads = task, worker, threads
        self._work: Work | None = None

    @property
    def loaded(self) -> bool:
        """Whether `load` succeeded."""
        return self._work is not None

    def load(self) -> Event:
        """Load the models: Ready or Failed."""
        try:
            limit_threads(self._threads)
            self._work = self._task.open()
            limit_threads(self._threads)
        except Exception as error:  # noqa: BLE001  a worker's boundary: all is reported
            return self._failed(error)
        return Ready(worker=self._worker)

    def do(self, job: Job) -> Iterator[Event]:
        """Do a job: BatchDone after each batch, at the end Done or Failed."""
        assert self._work is not None
        steps = self._work(job)
        try:
            while True:
                yield BatchDone(job.shard, self._worker, report=next(steps))
        except StopIteration as end:
            yield Done(job.shard, self._worker, report=end.value)
        except Exception as error:  # noqa: BLE001  a worker's boundary: all is reported
            yield self._failed(error)

    def _failed(self, error: Exception) -> Failed:
        """Our errors travel as they are, others as their traceback; the scheduler decides."""
        if isinstance(error, SvpError):
            return Failed(worker=self._worker, detail=str(error), error=error)
        text = "".join(traceback.format_exception(error))
        return Failed(worker=self._worker, detail=text[-2000:].strip())


def _die_with_parent() -> None:
    """End this process when the run ends, however it ends."""
    if sys.platform == "linux":
        import ctypes

        # Works even while a library holds the GIL; the thread below is for other systems.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
