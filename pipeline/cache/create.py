"""Create a cache folder for a plan, or add the plan's layers to one that holds the same images."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from ..display import show
from ..errors import CacheError, PlanMismatchError
from ..store import OtherBytesError, Place, Store, open_store
from .image_list import IMAGES
from .index import is_complete
from .layers import Layer
from .layout import CLAIMS, LAYER, LOGS, PLAN, VIEWS, exists, read_file
from .plan import Plan, all_plans
from .plan_diff import diff_plans
from .zarr_metadata import MAX_META_BYTES, check_document, documents

DIFF_LINES = 12
LEFT = re.compile(f"{IMAGES}/[0-9a-f]{{16}}/|{LOGS}/({CLAIMS}/|probe-)")


def create_cache(cache: Place, plan: Plan, *, view: bool = False) -> str:
    """Write the plan, its layer.json and zarr.json files; drop temp files of dead writers.

    Safe to repeat, and then brief: see `write_metadata` for damaged files. `view` adds the plan to a cache of the same images whose plan is another; a layer
    that both have is stored once. Call it from the planner, never from workers. Returns the key of
    the plan.

    Raises PlanMismatchError with the differences if the folder holds another plan (with `view`:
    other images, or a layer of the same name made otherwise), CacheError if it holds something that
    is no cache.
    """
    store, key = open_store(cache), PLAN
    there = exists(store, PLAN)
    if not there:
        require_no_other(store)
        store.sub(LOGS).require_create()  # its probe, left by a killed run, is no content there
        plan.images.save(store)
        try:
            store.create(PLAN, [plan.data], label="plan")
        except OtherBytesError:  # another run was faster
            there = True
    plans = all_plans(store) if there else {}
    if there:
        key = _join(store, plans, plan, view)
    if not is_complete(store, plan):
        store.tidy()
        _drop_unnamed_images(store, [*plans.values(), plan])
    if not all(_has_record(store, layer) for layer in plan.layers):
        write_metadata(store, plan)
    return key


def write_metadata(cache: Store, plan: Plan) -> None:
    """Write each layer.json and zarr.json that is missing or not as the plan says.

    A recompressed array keeps its own: its chunks can still be read.
    """
    for key, data in documents(plan).items():
        try:
            found = read_file(cache, key, MAX_META_BYTES)
            stays = check_document(found, cache.where(key), data) != "settings"
        except CacheError:
            stays = False
        if not stays:
            cache.replace(key, data, label="metadata")
    for layer in plan.layers:  # last: they vouch for the others
        if not _has_record(cache, layer):
            cache.replace(f"{layer.folder}/{LAYER}", layer.data, label="metadata")


def _has_record(cache: Store, layer: Layer) -> bool:
    try:
        return read_file(cache, f"{layer.folder}/{LAYER}", len(layer.data) + 1) == layer.data
    except CacheError:
        return False


def _join(cache: Store, there: Mapping[str, Plan], plan: Plan, view: bool) -> str:
    """Key of `plan` in a cache that has the plans `there`; it is written if it is new."""
    for key, found in there.items():
        if found.id == plan.id:
            return key
    main = there[PLAN]
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
    # Numbered past the newest, also where one between was dropped.
    numbers = [PurePosixPath(key).name[:4] for key in there if key != PLAN]
    key = f"{VIEWS}/{int(max(numbers, default='0000')) + 1:04d}-{plan.id[:16]}.json"
    plan.save(cache, key)
    return key


def _drop_unnamed_images(cache: Store, plans: Iterable[Plan]) -> None:
    """Delete the image lists of plans that were replaced."""
    named = {plan.images.folder for plan in plans}
    there = {"/".join(key.split("/")[:2]) for key, _ in cache.sizes(IMAGES) if key.count("/") > 1}
    for folder in there - named:
        cache.delete_below(folder)


def _mismatch(cache: Store, found: Plan, plan: Plan, what: str) -> PlanMismatchError:
    lines = diff_plans(found, plan)
    more = [f"... and {len(lines) - DIFF_LINES} more"] if len(lines) > DIFF_LINES else []
    return PlanMismatchError(
        f"{show(cache.where(), 300)} holds cache {found.id[:12]}, this run makes {plan.id[:12]}: "
        + "; ".join([*lines[:DIFF_LINES], *more])
        + f": {what}, or another folder"
    )


def require_no_other(cache: Place) -> None:
    """Raise CacheError if the place of a new cache holds something that is none."""
    # An image list or a probe is of a run that was killed before its plan had its name, or of one
    # that is about to make it; claims are of others.
    store = open_store(cache)
    if not all(LEFT.match(key) for key, _ in store.sizes()):
        if exists(store, PLAN):  # another run has made it since it was looked for
            return
        raise CacheError(
            f"{show(store.where(), 300)}: not empty and no cache of svp (no {PLAN}): "
            "name a new or an empty folder"
        )
