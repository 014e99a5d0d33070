"""Shards of a cache as the work of a data engine: rows with shard numbers in, rows of counts out.

The engine only decides where a shard is computed. A shard that is committed is not computed again,
so an engine may run a batch twice. What its own run lacks (time limits, the search for an image
that kills its process, the index) the same `svp precompute` adds at the end.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cache.exchange import caches_beside
from ..cache.layout import PLAN
from ..cache.made_by import note_code
from ..cache.manifest import missing_shards, read_committed
from ..cache.plan import Plan
from ..display import show
from ..errors import CacheError, ConfigError, PlanMismatchError
from ..executors.base import Done, ExecutorOptions, Failed, Job, JobReport, Refused
from ..executors.worker import Setup, WorkerRuntime
from ..process import pick_device
from ..records import LocalPaths
from ..store import OtherBytesError, Place, as_place, open_store
from .lender import lenders
from .shard_task import ShardTask

log = logging.getLogger(__name__)

Batch = Mapping[str, NDArray[Any]]


class Precompute:
    """Callable class for Ray Data's `map_batches`: computes and commits shards of a planned cache.

    A batch is a dict with the column `shard`, numbers of shards; the answer has a row for each of
    them: `shard`, `images` (computed now; 0 if the shard was there), `quarantined`, `superpixels`,
    all int64, and `seconds`, float64. The cache must have its plan.json, which any run of
    `svp precompute` writes first; it is on a file system that all workers share.

    where    image folder and weight files on the worker's machine
    device   cpu, cuda or cuda:N; auto: CUDA if this worker sees a GPU
    threads  of this worker
    view     its plan in the cache; None: plan.json

    Raises MissingError, WeightsError, PlanMismatchError if the installed libraries are not those of
    the plan, and for a batch CacheError that names the shard.
    """

    def __init__(
        self,
        cache: Place | str,
        where: LocalPaths,
        *,
        device: str = "auto",
        threads: int = 1,
        view: str | None = None,
    ) -> None:
        place = as_place(cache)
        folder = place.resolve() if isinstance(place, Path) else place
        plan = Plan.load(folder, view or PLAN)
        lacking = {layer for layers in _missing(folder, plan).values() for layer in layers}
        note_code(folder, lacking)
        self._shards = plan.num_shards
        task = ShardTask(
            open_store(folder), where, pick_device(device), threads, view or PLAN,
            frozenset(layer.kind for layer in lacking), lenders(plan, lacking, caches_beside(folder), folder),
        )  # fmt: skip
        self._worker = WorkerRuntime(Setup.of(task, ExecutorOptions(threads=threads)))
        match self._worker.load():
            case Refused(detail=detail):
                raise PlanMismatchError(detail)
            case Failed(detail=detail, error=error):
                raise error or CacheError(f"the models could not be loaded:\n{detail}")

    @staticmethod
    def missing_shards(cache: Place | str, view: str | None = None) -> list[int]:
        """Numbers of the shards still to compute, in order. Raises as `Plan.load`."""
        place = as_place(cache)
        return [*_missing(place, Plan.load(place, view or PLAN))]

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Compute the shards of `batch` one after another."""
        if "shard" not in batch:
            raise ConfigError(f"batch with columns {show(sorted(batch))}: need the column 'shard'")
        shards = np.asarray(batch["shard"])
        if shards.dtype.kind not in "iu" or not ((shards >= 0) & (shards < self._shards)).all():
            raise ConfigError(
                f"shard={show(shards.tolist(), 100)}: need numbers from 0 to {self._shards - 1}"
            )
        reports, seconds = [], []
        for shard in shards.tolist():
            began = time.perf_counter()
            reports.append(self._compute(shard))
            seconds.append(time.perf_counter() - began)
        return {
            "shard": shards.astype(np.int64),
            "images": np.array([report.images for report in reports], np.int64),
            "quarantined": np.array([sum(r.quarantined.values()) for r in reports], np.int64),
            "superpixels": np.array([report.superpixels for report in reports], np.int64),
            "seconds": np.array(seconds, np.float64),
        }

    def _compute(self, shard: int) -> JobReport:
        *_, last = self._worker.do(Job(shard))
        if isinstance(last, Failed) and isinstance(last.error, OtherBytesError):
            # The engine may have given the shard to another machine: what that has committed stands.
            log.warning(f"shard {shard}: {last.detail}")
            *_, last = self._worker.do(Job(shard))
        if isinstance(last, Done):
            return last.report
        raise CacheError(f"shard {shard}: {last.detail}")


def _missing(cache: Place, plan: Plan) -> dict[int, Any]:
    return missing_shards(cache, plan, read_committed(cache, plan))
