"""Create a cache folder for a plan, or open one that holds the same plan."""

import os
from pathlib import Path

from ..display import show
from ..errors import CacheError, PlanMismatchError
from ..io.atomic import make_folder, remove_stale, write_file
from ..io.paths import refuse_url
from .layout import COMPLETE, LOGS, MANIFESTS, PLAN
from .plan import Plan
from .plan_diff import diff_plans
from .zarr_metadata import check_document, documents

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
    """Write each zarr.json that is missing or not as the plan says; the others stay.

    A recompressed array keeps its own: its chunks can still be read.
    """
    for name, data in documents(plan).items():
        path = cache / name
        make_folder(path.parent, cache)
        try:
            stays = check_document(path, data) != "settings"
        except CacheError:
            stays = False
        if not stays:
            write_file(path, data, label="metadata")


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
