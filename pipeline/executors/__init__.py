"""Executors of shard tasks: local processes, Ray, Dask.

>>> sorted(EXECUTORS)
['dask', 'local', 'ray']
"""

from importlib import import_module

from .. import plugins
from ..errors import ConfigError
from .base import Event, ExecutorOptions, Job, Task
from .devices import check_cluster, check_device
from .scheduler import Executor

__all__ = ["EXECUTORS", "Event", "Executor", "ExecutorOptions", "Job", "Task", "build",
           "executor_class", "require_executor"]  # fmt: skip

# Those of this package as module:class, imported only when chosen.
EXECUTORS: dict[str, str | type[Executor]] = {
    "local": ".local:LocalExecutor",
    "ray": ".ray:RayExecutor",
    "dask": ".dask:DaskExecutor",
}
plugins.attach(plugins.EXECUTORS, EXECUTORS, Executor)


def require_executor(name: str) -> None:
    """ConfigError unless there is an executor `name`; one of this package is not imported yet."""
    if name not in EXECUTORS:
        executor_class(name)


def executor_class(name: str) -> type[Executor]:
    """The executor `name`, of this package or of a plug-in.

    Raises ConfigError listing what there is, MissingPackageError, MissingError for a plug-in file
    that is not there.
    """
    known = EXECUTORS.get(name)
    if isinstance(known, str):
        module, _, kind = known.partition(":")
        found: type[Executor] = getattr(import_module(module, __name__), kind)
    else:
        found = plugins.lookup(plugins.EXECUTORS, name)
    return found


def build(name: str, options: ExecutorOptions | None = None) -> Executor:
    """The executor `name`. Ray and Dask are imported here, only when chosen.

    Raises as `executor_class`; ConfigError for options that do not go with it.
    """
    options = options or ExecutorOptions()
    kind = executor_class(name)
    check_device(options)
    for field, owner in (("ray_address", "ray"), ("dask_scheduler", "dask")):
        if getattr(options, field) and name != owner:
            raise ConfigError(f"{field} requires executor={owner}, not executor={name}")
    check_cluster(options)
    return kind(options)
