"""Executor interface: the types that a run, its scheduler and its workers exchange.

A backend (`local`, `ray`, `dask`) only moves jobs to workers and reports what became of them; it
decides nothing. Retries, timeouts and quarantine are the scheduler's, once for all three.
Invariant: a job is a pure function of (task, job), so running one twice is harmless.
"""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from ..display import shorten
from ..errors import CacheError, SvpError

Reason = Literal["worker_died", "worker_timeout", "worker_error"]


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


@dataclass(frozen=True, slots=True)
class JobReport:
    """Report of a job on one batch, or on all its images once it is done: a few hundred bytes.

    quarantined  images by reason
    seconds      by stage, of the job so far; stages overlap
    elapsed      seconds since the job began
    peak_rss     most memory of the worker, bytes
    """

    images: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    superpixels: int = 0
    fallbacks: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    elapsed: float = 0.0
    peak_rss: int = 0


# One job: yields the report of each batch when it is done, returns that of all.
Work = Callable[[Job], Generator[JobReport, None, JobReport]]


@dataclass(frozen=True, slots=True)
class Needs:
    """Needs of a task's workers: asked of a cluster, and checked before the first job.

    name       of the task in the cluster's own lists
    libraries  versions of the packages that affect stored bits, by name; "none": not installed
    memory     of one worker on its machine, bytes; 0: unknown
    """

    name: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    memory: int = 0


class Task(Protocol):
    """Picklable description of the work. `open` loads the models, once per worker process."""

    @property
    def needs(self) -> Needs:
        """Needs of its workers; read in the process of the run."""

    def open(self) -> Work:
        """Load the models; the result does one job."""

    def rows(self, shard: int) -> int:
        """Number of images of shard `shard`."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a run, to a worker or a shard.

    `kind` names it in logs and progress lines: these words stay where classes have newer ones.
    `place` is the machine of the worker as its cluster names it, "" where that is unknown.
    """

    kind: ClassVar[str]
    shard: int | None = None
    worker: int | None = None
    detail: str = ""
    place: str = ""

    @property
    def result(self) -> dict[str, object]:
        """Fields of the log entry besides those of every event."""
        return {}


@dataclass(frozen=True)
class Started(Event):
    """The run begins."""

    kind = "started"
    shards: int = 0
    workers: int = 0

    @property
    def result(self) -> dict[str, object]:
        return {"shards": self.shards, "workers": self.workers}


@dataclass(frozen=True)
class Ready(Event):
    """The worker has loaded its models and can take a job; `info` is what it says of itself."""

    kind = "worker_ready"
    info: Mapping[str, object] = field(default_factory=dict)

    @property
    def result(self) -> dict[str, object]:
        return {"place": self.place, **self.info}


class Refused(Event):
    """The worker's svp or libraries are not those of the plan: it may not compute anything."""

    kind = "worker_refused"


class Draining(Event):
    """The worker's machine is about to leave its cluster: nothing new may be given to it."""

    kind = "worker_draining"


class FalseStart(Event):
    """The worker ended before it was ready; it is started again after a pause."""

    kind = "worker_false_start"


class LeftOut(Event):
    """The scheduler uses this worker or its place no more; `detail` is the cause."""

    kind = "worker_left_out"


@dataclass(frozen=True)
class BatchDone(Event):
    """A batch of a shard under way is done; such an event may be lost."""

    kind = "progress"
    report: JobReport = JobReport()


@dataclass(frozen=True)
class Done(Event):
    """From a worker: its job is done. From the scheduler: the shard is committed."""

    kind = "shard_done"
    report: JobReport = JobReport()

    @property
    def result(self) -> dict[str, object]:
        return asdict(self.report)


@dataclass(frozen=True)
class Failed(Event):
    """From a worker: its job or the loading of its models failed, with `error`, if it is one of
    ours, or a traceback as `detail`. From the scheduler: an attempt at the shard failed.
    """

    kind = "shard_failed"
    reason: Reason = "worker_error"
    error: SvpError | None = None

    @property
    def result(self) -> dict[str, object]:
        return {"reason": self.reason}


@dataclass(frozen=True)
class Died(Event):
    """The worker's process is gone; `machine` tells that its machine or the way to it is too."""

    kind = "worker_died"
    machine: bool = False


class Requeued(Event):
    """The shard was lost with its machine: it is given out again, and that was no attempt."""

    kind = "shard_requeued"


class Collided(Event):
    """Another writer has made files of the shard with other bytes: it is tried again later."""

    kind = "shard_collided"


class Hung(Event):
    """The worker took longer than the time limit and was ended."""

    kind = "worker_hung"


class SearchStarted(Event):
    """The shard failed too often: the images that crash its workers are searched."""

    kind = "shard_hunt"


@dataclass(frozen=True)
class Poisoned(Event):
    """The image in this row of the shard crashes its worker: it is quarantined."""

    kind = "image_poison"
    row: int = 0
    reason: Reason = "worker_error"

    @property
    def result(self) -> dict[str, object]:
        return {"row": self.row, "reason": self.reason}


class Abandoned(Event):
    """The shard exhausted its retries: none of its images will be in the cache."""

    kind = "shard_parked"


class Tick(Event):
    """Timer event a few times a second, on which a listener can redraw or stop the run."""

    kind = "tick"


class Finished(Event):
    """Every shard is committed or abandoned."""

    kind = "finished"


class Pool(ABC):
    """The workers of one backend, by number, each holding at most one job.

    elastic  whether machines come and go: a place that fails is avoided, and another may come
    asks     what a worker asks of its machine, in words
    """

    elastic: bool = False
    asks: str = "a process"

    @abstractmethod
    def capacity(self) -> int:
        """Number of workers to have at present; on a cluster it changes with the machines."""

    @abstractmethod
    def start(self, worker: int) -> None:
        """Start a worker under this number; Ready or Failed follows when its models are loaded."""

    @abstractmethod
    def stop(self, worker: int) -> None:
        """End the worker, whatever it is doing; no event of it follows."""

    @abstractmethod
    def submit(self, worker: int, job: Job) -> None:
        """Give `job` to a worker that is ready and has none."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Event]:
        """Events of workers since the last call; waits at most `timeout` seconds for one."""

    @abstractmethod
    def close(self) -> None:
        """End all workers and whatever else this pool started; leave nothing running."""

    def avoid(self, place: str) -> None:  # noqa: B027  nothing to do for most
        """Start no worker in this place of an elastic pool from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """Execution options; none of them changes a stored bit.

    workers           None: one per GPU, else one per usable core; on a cluster also on machines
                      that join later; 0: in this process (debugging)
    least_workers     end the run if there are fewer for `worker_timeout_s`
    worker_timeout_s  how long a run waits for workers
    device            "cpu", "cuda" or "cuda:<i>", as the task gets it
    threads           threads of one worker
    ray_address       join this Ray cluster instead of starting one on this machine
    gpus_per_worker   share of a GPU of a Ray worker; 0.5: two workers per GPU
    require_gpu       only GPUs of this kind, by Ray's name ("A100")
    ship              send this svp to the Ray cluster, whose machines need none of their own
    dask_scheduler    join this Dask scheduler instead of starting one on this machine
    memory_mb         Ray's object store; our results are a few kB
    """

    workers: int | None = None
    least_workers: int = 1
    worker_timeout_s: float = 900.0
    device: str = "cpu"
    threads: int = 1
    ray_address: str | None = None
    gpus_per_worker: float | None = None
    require_gpu: str | None = None
    ship: bool = False
    dask_scheduler: str | None = None
    memory_mb: int = 100


CONNECT_S = 3.0


def reachable(address: str) -> bool:
    """Whether something listens at `address`: host:port, with or without a scheme."""
    place = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        socket.create_connection((place.hostname, place.port), CONNECT_S).close()
    except OSError:
        return False
    return True


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
