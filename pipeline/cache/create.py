"""Create a cache folder for a plan, or open one that holds the same plan."""

import os
from pathlib import Path

from ..display import show
from ..errors import CacheError, PlanMismatchError
from ..io.atomic import make_folder, remove_stale, write_file
from ..io.paths import refuse_url
from .layout import COMPLETE, LOGS, MANIFESTS, META, PLAN
from .plan import Plan
from .plan_diff import diff_plans
from .schema import ArraySpec, array_specs, column_specs
from .zarr_metadata import array_metadata, check_array, check_settings, group_metadata

DIFF_LINES = 12


def create_cache(cache: Path, plan: Plan) -> None:
    """Write plan.json and every zarr.json; drop temp files of dead writers. Safe to repeat.

    Call it from the planner, never from workers. Raises PlanMismatchError with the differences if
    the folder holds another plan, CacheError if it holds something that is no cache.
    """
    refuse_url(cache)
    if os.path.lexists(cache / PLAN):
        _check_same(cache, plan)
    else:
        _check_empty(cache)
        make_folder(cache, cache)
        plan.save(cache / PLAN)
    if not (cache / COMPLETE).exists():  # walking a complete cache would be most of a rerun
        remove_stale(cache)
    for folder in (MANIFESTS, LOGS):
        make_folder(cache / folder, cache)
    write_metadata(cache, plan)


def write_metadata(cache: Path, plan: Plan) -> None:
    """Write each zarr.json that is missing or not as the plan says; the others stay."""
    if not (cache / META).is_file() or (cache / META).read_bytes() != group_metadata(plan):
        write_file(cache / META, group_metadata(plan), label="metadata")
    sharded = [(spec, plan.shard_size) for spec in array_specs(plan)]
    for spec, size in [*sharded, *((spec, None) for spec in column_specs())]:
        path = cache / spec.name / META
        make_folder(path.parent, cache)
        if not _stays(path, spec, len(plan.images), size):
            write_file(path, array_metadata(spec, len(plan.images), size), label="metadata")


def _stays(path: Path, spec: ArraySpec, images: int, size: int | None) -> bool:
    """Whether a zarr.json is as we write it, or that of a recompressed array."""
    try:
        if check_array(path, spec, images, size) == list(spec.codecs):
            check_settings(path, spec, images, size)
    except CacheError:
        return False
    return True


def _check_same(cache: Path, plan: Plan) -> None:
    found = Plan.load(cache / PLAN)
    if found.id == plan.id:
        return
    lines = diff_plans(found, plan)
    more = [f"... and {len(lines) - DIFF_LINES} more"] if len(lines) > DIFF_LINES else []
    raise PlanMismatchError(
        f"{show(str(cache), 300)} holds cache {found.id[:12]}, this run makes {plan.id[:12]}: "
        + "; ".join([*lines[:DIFF_LINES], *more])
        + ": use the recipe and images it was made with, or another folder"
    )


def _check_empty(cache: Path) -> None:
    if cache.is_dir() and any(not entry.name.endswith(".partial") for entry in cache.iterdir()):
        raise CacheError(
            f"{show(str(cache), 300)}: not empty and no cache of svp (no {PLAN}): "
            "name a new or an empty folder"
        )
    if cache.exists() and not cache.is_dir():
        raise CacheError(f"{show(str(cache), 300)}: is a file: name a folder")
