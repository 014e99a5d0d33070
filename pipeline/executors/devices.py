"""Number of workers, and the device visible to each.

A worker sees one GPU and calls it `cuda`; its environment selects which one, so that the same task
runs under every executor.
"""

import os

from ..display import show
from ..errors import ConfigError
from .base import ExecutorOptions


def usable_devices(options: ExecutorOptions) -> list[dict[str, str]]:
    """Environment additions of each worker on this machine, at least one.

    Raises ConfigError for a device that is not there.
    """
    check_device(options)
    if options.device == "cpu":
        return [{} for _ in range(options.workers or usable_cores(options.threads))]
    wanted = _visible_gpus()
    if options.device != "cuda":
        index = int(options.device.partition(":")[2])
        if index >= len(wanted):
            raise ConfigError(f"device={options.device}: {len(wanted)} CUDA devices found")
        wanted = [wanted[index]]
    if not wanted:
        raise ConfigError("device=cuda: no CUDA device found; use --device cpu")
    count = options.workers or len(wanted)
    return [{"CUDA_VISIBLE_DEVICES": wanted[i % len(wanted)]} for i in range(count)]


def check_device(options: ExecutorOptions) -> None:
    """Refuse options no executor can follow. Raises ConfigError."""
    name, colon, index = options.device.partition(":")
    if name not in ("cpu", "cuda") or (colon and not (name == "cuda" and index.isdecimal())):
        raise ConfigError(f"device={show(options.device)}: allowed are cpu, cuda, cuda:<number>")
    if options.threads < 1:
        raise ConfigError(f"threads={options.threads}: need >= 1")
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"workers={options.workers}: need >= 0")


def check_cluster(options: ExecutorOptions) -> None:
    """Refuse what only a cluster that was joined can do. Raises ConfigError."""
    share = options.gpus_per_worker
    if options.least_workers > 1 and not (options.ray_address or options.dask_scheduler):
        raise ConfigError(
            f"workers={options.least_workers}:{options.workers}: a range is for a cluster, whose "
            "machines come and go: name one with --ray-address or --dask-scheduler, or give one number"
        )
    if options.workers is not None and options.least_workers > max(1, options.workers):
        raise ConfigError(f"workers={options.least_workers}:{options.workers}: need A <= B in A:B")
    for field in ("gpus_per_worker", "require_gpu", "ship"):
        if getattr(options, field) and not options.ray_address:
            raise ConfigError(f"{field} requires a Ray cluster: name it with --ray-address")
    if options.device == "cpu" and (share or options.require_gpu):
        raise ConfigError("gpus_per_worker and require_gpu need workers on GPUs: --device cuda")
    if share is not None and not (0 < share <= 1 or (share > 1 and float(share).is_integer())):
        raise ConfigError(f"gpus_per_worker={share:g}: need a share of one GPU, or a whole number")
    if not options.worker_timeout_s > 0:  # NaN is refused as well
        raise ConfigError(f"worker_timeout={options.worker_timeout_s:g}: need more than 0 seconds")


def task_device(options: ExecutorOptions) -> str:
    """The device's name inside a worker: `cuda:3` is that worker's only GPU, `cuda`."""
    return options.device.partition(":")[0] if options.workers != 0 else options.device


def usable_cores(threads: int = 1) -> int:
    """Number of workers of `threads` threads that fit the cores available to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // threads)


def _visible_gpus() -> list[str]:
    """Names of the GPUs as CUDA_VISIBLE_DEVICES takes them; no CUDA context is made."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return given.split(",")[:count] if given else [str(i) for i in range(count)]
