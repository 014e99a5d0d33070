"""Worker process: main function, thread limits and progress reports, for every executor.

A worker computes on as many threads as it was given (one by default), does not outlive the run
that started it, and ignores Ctrl-C, which that run handles.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Literal

from ..errors import SvpError
from .base import Job, Outcome, Task

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
    runtime = WorkerRuntime(task, worker, threads, conn.send)
    conn.send(runtime.load())
    with suppress(EOFError, BrokenPipeError):
        while runtime.loaded:
            conn.send(runtime.do(conn.recv()))


_listener: Callable[[Outcome], None] | None = None  # of the job this process is at


def report_progress(**value: object) -> None:
    """Report on the job under way, from within it: a few bytes, `shard` among them."""
    if _listener is not None:
        _listener(Outcome(0, "progress", value))


@contextmanager
def progress_listener(listen: Callable[[Outcome], None] | None) -> Iterator[None]:
    """Pass what `report_progress` reports inside the context to `listen`."""
    global _listener
    before, _listener = _listener, listen
    try:
        yield
    finally:
        _listener = before


class WorkerRuntime:
    """State of a worker process: load the models once, then run jobs.

    listen  receives the progress of running jobs; unlike results, it may be lost
    """

    def __init__(
        self,
        task: Task,
        worker: int,
        threads: int,
        listen: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._task, self._worker, self._threads = task, worker, threads
        self._listen = listen
        self._do: Callable[[Job], dict[str, object]] | None = None

    @property
    def loaded(self) -> bool:
        """Whether `load` succeeded."""
        return self._do is not None

    def load(self) -> Outcome:
        """Load the models: `ready` or `refused`."""

        def load() -> Outcome:
            limit_threads(self._threads)
            self._do = self._task.open()
            limit_threads(self._threads)
            return Outcome(self._worker, "ready")

        return self._attempt("refused", load)

    def do(self, job: Job) -> Outcome:
        """Do a job: `done` or `raised`."""
        assert self._do is not None
        work = self._do
        with progress_listener(self._relay if self._listen else _listener):
            return self._attempt("raised", lambda: Outcome(self._worker, "done", work(job)))

    def _relay(self, report: Outcome) -> None:
        assert self._listen is not None
        self._listen(replace(report, worker=self._worker))

    def _attempt(
        self, otherwise: Literal["raised", "refused"], call: Callable[[], Outcome]
    ) -> Outcome:
        """Our errors travel as they are, others as their traceback; the run decides."""
        try:
            return call()
        except SvpError as error:
            return Outcome(self._worker, otherwise, error=error, detail=str(error))
        except Exception:  # noqa: BLE001  a worker's boundary: nothing is swallowed, all is reported
            return Outcome(self._worker, otherwise, detail=traceback.format_exc()[-2000:].strip())


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
