"""Create a cache folder for a plan, or add the plan's layers to one that holds the same images."""

import os
import re
import shutil
from pathlib import Path

from ..display import show
from ..errors import CacheError, PlanMismatchError
from ..io.atomic import make_folder, remove_stale, write_file
from ..io.paths import refuse_url
from .image_list import IMAGES
from .index import is_complete
from .layout import CLAIMS, LAYER, LOGS, MANIFESTS, PLAN, VIEWS
from .plan import Plan, all_plans
from .plan_diff import diff_plans
from .zarr_metadata import check_document, documents

DIFF_LINES = 12
LIST = re.compile("[0-9a-f]{16}")  # folder of an image list


def create_cache(cache: Path, plan: Plan, *, view: bool = False) -> Path:
    """Write the plan, its layer.json and zarr.json files; drop temp files of dead writers.

    Safe to repeat. `view` adds the plan to a cache of the same images whose plan is another; a layer
    that both have is stored once. Call it from the planner, never from workers. Returns the file of
    the plan.

    Raises PlanMismatchError with the differences if the folder holds another plan (with `view`:
    other images, or a layer of the same name made otherwise), CacheError if it holds something that
    is no cache.
    """
    refuse_url(cache)
    if os.path.lexists(cache / PLAN):
        path = _join(cache, plan, view)
    else:
        require_no_other(cache)
        make_folder(cache, cache)
        plan.save(cache)
        path = cache / PLAN
    if not is_complete(cache, plan):  # walking a complete cache would be most of a rerun
        remove_stale(cache)
        _drop_unnamed_images(cache)
    make_folder(cache / LOGS, cache)
    for layer in plan.layers:
        make_folder(cache / layer.folder / MANIFESTS, cache)
    write_metadata(cache, plan)
    return path


def write_metadata(cache: Path, plan: Plan) -> None:
    """Write each layer.json and zarr.json that is missing or not as the plan says.

    A recompressed array keeps its own: its chunks can still be read.
    """
    for layer in plan.layers:
        path = cache / layer.folder / LAYER
        make_folder(path.parent, cache)
        if path.is_symlink() or not path.is_file() or path.read_bytes() != layer.data:
            write_file(path, layer.data, label="metadata")
    for name, data in documents(plan).items():
        path = cache / name
        make_folder(path.parent, cache)
        try:
            stays = check_document(path, data) != "settings"
        except CacheError:
            stays = False
        if not stays:
            write_file(path, data, label="metadata")


def _join(cache: Path, plan: Plan, view: bool) -> Path:
    """File of `plan` in a cache that has others; it is written if it is new."""
    there = all_plans(cache)
    for path, found in there.items():
        if found.id == plan.id:
            return path
    main = there[cache / PLAN]
    if not view:
        raise _mismatch(cache, main, plan, "use the recipe and images it was made with")
    same_images = (main.images, main.shard_size) == (plan.images, plan.shard_size)
    stored = {layer.folder: (layer, found) for found in there.values() for layer in found.layers}
    for layer in plan.layers:
        old, owner = stored.get(layer.folder, (layer, main))
        if not same_images or old.id != layer.id:
            what = "make the layers of a cache from the same images"
            if same_images:
                what = f"{layer.folder} is there and made otherwise: use its settings"
            raise _mismatch(cache, owner, plan, what)
    make_folder(cache / VIEWS, cache)
    # Numbered past the newest, also where one between was dropped.
    last = max((path.name[:4] for path in there if path.parent.name == VIEWS), default="0000")
    path = cache / VIEWS / f"{int(last) + 1:04d}-{plan.id[:16]}.json"
    plan.save(cache, path)
    return path


def _drop_unnamed_images(cache: Path) -> None:
    """Delete the image lists of plans that were replaced."""
    named = {Path(plan.images.folder).name for plan in all_plans(cache).values()}
    for folder in (cache / IMAGES).iterdir():
        if folder.is_dir() and folder.name not in named:
            shutil.rmtree(folder, ignore_errors=True)


def _mismatch(cache: Path, found: Plan, plan: Plan, what: str) -> PlanMismatchError:
    lines = diff_plans(found, plan)
    more = [f"... and {len(lines) - DIFF_LINES} more"] if len(lines) > DIFF_LINES else []
    return PlanMismatchError(
        f"{show(str(cache), 300)} holds cache {found.id[:12]}, this run makes {plan.id[:12]}: "
        + "; ".join([*lines[:DIFF_LINES], *more])
        + f": {what}, or another folder"
    )


def require_no_other(cache: Path) -> None:
    """Raise CacheError if the folder of a new cache holds something that is none."""
    if cache.is_dir() and not all(map(_left_over, cache.iterdir())):
        if os.path.lexists(cache / PLAN):  # another run has made it since it was looked for
            return
        raise CacheError(
            f"{show(str(cache), 300)}: not empty and no cache of svp (no {PLAN}): "
            "name a new or an empty folder"
        )
    if cache.exists() and not cache.is_dir():
        raise CacheError(f"{show(str(cache), 300)}: is a file: name a folder")


def _left_over(entry: Path) -> bool:
    """Whether it is of a run that was killed before its plan had its name."""
    if entry.name == IMAGES and entry.is_dir():
        return all(LIST.fullmatch(one.name) for one in entry.iterdir())
    if entry.name == LOGS and entry.is_dir():
        return all(one.name == CLAIMS for one in entry.iterdir())
    return entry.name.endswith(".partial")
