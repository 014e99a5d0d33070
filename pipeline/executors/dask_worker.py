"""Jobs inside a Dask worker process, which keeps the models of the run it works for."""

import threading
from dataclasses import asdict, replace
from typing import Any

from .base import BatchDone, Event, Job
from .worker import Setup, WorkerRuntime


def distributed_package() -> Any:
    """The package; it has no types."""
    import distributed

    return distributed


_lock = threading.Lock()
_runtimes: dict[str, WorkerRuntime] = {}  # in a Dask worker: the models of the run it works for


def load(run: str, setup: Setup) -> Event:
    """Load the models inside a Dask worker."""
    with _lock:
        return _loaded(run, setup)


def _loaded(run: str, setup: Setup) -> Event:
    _runtimes.pop(run, None)
    runtime = WorkerRuntime(setup)
    event = runtime.load()
    if runtime.loaded:
        _runtimes.clear()
        _runtimes[run] = runtime
    return event


def do(run: str, setup: Setup, job: Job) -> Event:
    """A job inside a Dask worker; the lock keeps a worker of many threads to one job."""
    with _lock:
        if run not in _runtimes:  # a nanny started the process again under its old address
            event = _loaded(run, setup)
            if run not in _runtimes:
                return event
        for event in _runtimes[run].do(job):
            if not isinstance(event, BatchDone):
                return replace(event, worker=setup.worker)
            report = {"by": setup.worker, "shard": job.shard, **asdict(event.report)}
            distributed_package().get_worker().log_event(run, report)
    raise AssertionError("a job ends with Done or Failed")
