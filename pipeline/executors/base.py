"""Executor interface: the types that a run, its scheduler and its workers exchange.

A backend (`local`, `ray`, `dask`) only moves jobs to workers and reports what became of them; it
decides nothing. Retries, timeouts and quarantine are the scheduler's, once for all three.
Invariant: a job is a pure function of (task, job), so running one twice is harmless.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, runtime_checkable

from ..display import shorten
from ..errors import CacheError

Reason = Literal["worker_died", "worker_timeout", "worker_error"]
# Printed in the progress log and seen by listeners: these words stay, also where the code has newer
# ones (shard_hunt: the search for crashing images begins; shard_parked: the shard is abandoned).
EventKind = Literal[
    "started",  # result: {"shards": int, "workers": int}
    "worker_ready",
    "worker_died",
    "worker_hung",
    "progress",  # of a shard under way; result: {"images": int, "quarantined": {reason: int}}
    "shard_done",  # result: what the task returned
    "shard_failed",
    "shard_hunt",
    "image_poison",  # result: {"row": int, "reason": str}
    "shard_parked",
    "tick",  # a few times a second: lets the listener redraw, or raise to stop the run
    "finished",
]


@dataclass(frozen=True, slots=True)
class Job:
    """One thing a worker does.

    shard   number of the shard
    rows    None: compute the shard and commit it. (a, b): compute rows a..b-1, store nothing; the
            search for a poison image is made of such probes
    poison  rows that kill their worker, with the reason: quarantined without being touched
    """

    shard: int
    rows: tuple[int, int] | None = None
    poison: tuple[tuple[int, Reason], ...] = ()


class Task(Protocol):
    """Picklable description of the work. `open` loads the models, once per worker process."""

    def open(self) -> Callable[[Job], dict[str, object]]:
        """Load the models; the result does one job and returns a small dict."""

    def rows(self, shard: int) -> int:
        """Number of images in shard `shard`."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `on_event` may raise to stop the run: workers are ended first."""

    kind: EventKind
    shard: int | None = None
    worker: int | None = None
    detail: str = ""
    result: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """Outcome of the shards of one run.

    done       committed shards, in order of completion
    abandoned  shards that exhausted their retries, with the last cause; none of their images is
               in the cache
    poison     (shard, row, reason) of images quarantined because they crash their worker
    tries      attempts per shard that needed more than one
    deaths     workers that died
    timeouts   workers stopped because a shard took longer than its limit
    """

    done: tuple[int, ...]
    abandoned: Mapping[int, str]
    poison: tuple[tuple[int, int, Reason], ...]
    tries: Mapping[int, int]
    deaths: int
    timeouts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Report of a pool about one of its workers.

    progress  `value` is what its job reported so far (`worker.report_progress`)
    ready   it can take a job       done    `value` is what the job returned
    raised  `error` (an SvpError) or `detail` (any other exception's traceback)
    died    the process is gone     refused `error` or `detail`: the models did not load
    """

    worker: int
    kind: Literal["ready", "progress", "done", "raised", "died", "refused"]
    value: Mapping[str, object] = field(default_factory=dict)
    detail: str = ""
    error: Exception | None = None


class Pool(Protocol):
    """The workers of one backend, numbered 0..size-1, each holding at most one job."""

    size: int

    def submit(self, worker: int, job: Job) -> None:
        """Give `job` to a worker that reported `ready` or `done`."""

    def wait(self, timeout: float) -> list[Outcome]:
        """Events since the last call; waits at most `timeout` seconds for one."""

    def restart(self, worker: int) -> None:
        """End the worker, whatever it is doing, and start a fresh one under the same number."""

    def close(self) -> None:
        """End all workers and whatever else this pool started; leave nothing running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """Execution options; none of them changes a stored bit.

    workers         None: one per GPU, else one per usable core; 0: in this process (debugging)
    device          "cpu", "cuda" or "cuda:<i>", as the task gets it
    threads         threads of one worker
    ray_address     join this Ray cluster instead of starting one on this machine
    dask_scheduler  join this Dask scheduler instead of starting one on this machine
    memory_mb       Ray's object store; our results are a few kB
    """

    workers: int | None = None
    device: str = "cpu"
    threads: int = 1
    ray_address: str | None = None
    dask_scheduler: str | None = None
    memory_mb: int = 100


@runtime_checkable
class Executor(Protocol):
    """One way to run shards. All give byte-identical shards."""

    def __init__(self, options: ExecutorOptions) -> None: ...

    def run(
        self,
        task: Task,
        shards: Sequence[int],
        on_event: Callable[[Event], None],
        *,
        max_tries: int = 3,
        shard_timeout_s: float | None = None,
    ) -> Summary:
        """Run all `shards`; see `scheduler.run_shards` for what happens to those that fail."""


T = TypeVar("T")
TRIES = 3


def retry_start(what: str, start: Callable[[], T], clean: Callable[[], None] = lambda: None) -> T:
    """Call `start` up to three times; `clean` removes what a failed call left.

    Ray and Dask raise bare Exception or RuntimeError where a process of theirs dies during start-up
    or a busy machine is slow. Raises CacheError after the last attempt.
    """
    for left in reversed(range(TRIES)):
        try:
            return start()
        except Exception as error:
            clean()
            if not left:
                raise CacheError(
                    f"{what} did not start, tried {TRIES} times: {shorten(str(error), 500)}. Free the "
                    "machine or use --executor local, and give the same command again"
                ) from error
    raise AssertionError
