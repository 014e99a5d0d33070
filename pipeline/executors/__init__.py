"""Executors of shard tasks: local processes, Ray, Dask.

>>> sorted(EXECUTORS)
['dask', 'local', 'ray']
"""

from collections.abc import Callable

from ..display import show
from ..errors import ConfigError
from .base import Event, Executor, ExecutorOptions, Job, Summary, Task
from .devices import check_device

__all__ = ["EXECUTORS", "Event", "Executor", "ExecutorOptions", "Job", "Summary", "Task", "build"]


def _local(options: ExecutorOptions) -> Executor:
    from .local import LocalExecutor

    return LocalExecutor(options)


def _ray(options: ExecutorOptions) -> Executor:
    from .ray import RayExecutor

    return RayExecutor(options)


def _dask(options: ExecutorOptions) -> Executor:
    from .dask import DaskExecutor

    return DaskExecutor(options)


EXECUTORS: dict[str, Callable[[ExecutorOptions], Executor]] = {
    "local": _local,
    "ray": _ray,
    "dask": _dask,
}


def build(name: str, options: ExecutorOptions | None = None) -> Executor:
    """The executor `name`. Ray and Dask are imported here, only when chosen.

    Raises ConfigError (unknown name, options that do not go with it), MissingPackageError.
    """
    options = options or ExecutorOptions()
    if name not in EXECUTORS:
        raise ConfigError(f"executor={show(name)}: allowed are {', '.join(EXECUTORS)}")
    check_device(options)
    for field, owner in (("ray_address", "ray"), ("dask_scheduler", "dask")):
        if getattr(options, field) and name != owner:
            raise ConfigError(f"{field} goes with executor={owner}, not executor={name}")
    return EXECUTORS[name](options)
