"""Worker process: main function, thread limits and running of jobs, for every executor.

A worker computes on as many threads as it was given (one by default), does not outlive the run
that started it, and ignores Ctrl-C, which that run handles.
"""

import ctypes
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

from ... import __version__
from ..errors import SvpError
from ..process import installed
from .base import (
    BatchDone,
    Done,
    Event,
    ExecutorOptions,
    Failed,
    Job,
    Ready,
    Refused,
    Task,
    Work,
)

# Read by the numeric libraries when they are first imported: set before the process starts.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
)


# Of malloc.h: blocks above the first are maps of their own, which end when they are freed; free
# memory at the heap's end above the second goes back to the system.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_EACH = 32 << 20  # the most that glibc takes
KEPT = 512 << 20

TRACEBACK = 4000  # characters of a traceback that travel, its end


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


def keep_freed_memory() -> None:
    """Keep freed tensors' memory for the next ones: glibc gives 32 MiB back at once.

    Every layer would have its pages cleared and mapped anew: a seventh of a CPU worker's time is the
    kernel's then, and a thirtieth so. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, KEPT_EACH)  # setting one ends the adjustment of both
        mallopt(_M_TRIM_THRESHOLD, KEPT)


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


@dataclass(frozen=True)
class Setup:
    """Arguments of a worker; the versions are those it must have."""

    task: Task
    threads: int
    svp: str
    libraries: Mapping[str, str]
    worker: int = 0

    @classmethod
    def of(cls, task: Task, options: ExecutorOptions) -> "Setup":
        """Of the workers of a run, made in its process."""
        return cls(task, options.threads, __version__, task.needs.libraries)


def serve(conn: Connection, setup: Setup) -> None:
    """Main function of a spawned worker: load the models, then do jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group
    _die_with_parent()
    runtime = WorkerRuntime(setup)
    conn.send(runtime.load())
    with suppress(EOFError, BrokenPipeError):
        while runtime.loaded:
            for event in runtime.do(conn.recv()):
                conn.send(event)


def worker_info(libraries: Iterable[str]) -> dict[str, object]:
    """Device, versions of svp and of `libraries`, and machine of this process, for logs."""
    return {
        "device": device_name(),
        "svp": __version__,
        "libraries": {name: installed(name) for name in libraries},
        "host": platform.node(),
        "pid": os.getpid(),
    }


def device_name() -> str:
    """Name of the GPU this process uses, else of its CPU."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        name: str = torch.cuda.get_device_name()
        return name
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class WorkerRuntime:
    """State of a worker process: check its versions, load the models once, then run jobs."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._worker = setup, setup.worker
        self._work: Work | None = None

    @property
    def loaded(self) -> bool:
        """Whether `load` succeeded."""
        return self._work is not None

    def load(self) -> Event:
        """Load the models: Ready, Refused for other versions than the plan's, or Failed."""
        wanted = {"svp": self._setup.svp, **self._setup.libraries}
        found = {"svp": __version__, **{name: installed(name) for name in self._setup.libraries}}
        if other := [f"{n} {found[n]}, not {wanted[n]}" for n in wanted if found[n] != wanted[n]]:
            return Refused(worker=self._worker, detail=(
                f"{platform.node()} has {', '.join(other)}, with which the plan was made: other "
                "versions may compute other bytes. Install the plan's on every machine"
            ))  # fmt: skip
        try:
            limit_threads(self._setup.threads)
            keep_freed_memory()
            self._work = self._setup.task.open()
            limit_threads(self._setup.threads)
        except Exception as error:  # noqa: BLE001  a worker's boundary: all is reported
            return self._failed(error)
        return Ready(worker=self._worker, info=worker_info(self._setup.libraries))

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
        return Failed(worker=self._worker, detail=text[-TRACEBACK:].strip())


def _die_with_parent() -> None:
    """End this process when the run ends, however it ends."""
    if sys.platform == "linux":
        # Works even while a library holds the GIL; the thread below is for other systems.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
