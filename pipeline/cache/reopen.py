"""Reopen a finished cache to add the images that were quarantined.

A repaired file has another hash, so it belongs to another plan: a cache healed in place must end up
byte for byte like one made from the good files at once. `adopt` therefore moves the committed
shards over to the new plan by rewriting their manifests (the data files do not name the plan).
Invariant: an interrupted `adopt` is finished by running it again; until then nothing is lost.
"""

from dataclasses import replace

from ..display import show
from ..errors import PlanMismatchError
from ..store import Place, Store, open_store
from .index import GOOD, load_rows
from .layout import PLAN, manifest_key
from .manifest import Committed, Manifest
from .plan import Plan
from .plan_diff import diff_plans
from .verify import uncommit


def quarantined(cache: Place, plan: Plan, committed: Committed) -> dict[int, set[int]]:
    """Ids of the quarantined images by shard."""
    found: dict[int, set[int]] = {}
    for row in load_rows(cache, plan, committed).bad:
        found.setdefault(row // plan.shard_size, set()).add(int(plan.images.id[row]))
    return found


def adopt(cache: Place, view: str, old: Plan, new: Plan, committed: Committed) -> None:
    """Give the cache of plan `old` the plan `new`, in which quarantined images were repaired.

    view       the key of `old`
    committed  by the old plan: shards without a repaired image stay committed

    Raises PlanMismatchError if the plans differ in more than the files of images that are not in
    the cache.
    """
    if old.id == new.id:
        return
    store = open_store(cache)
    same_list = [image[:2] for image in old.images] == [image[:2] for image in new.images]
    if replace(old, images=new.images).id != new.id or not same_list:
        raise _refusal(store, old, new, diff_plans(old, new))
    changed = {a.image_id for a, b in zip(old.images, new.images, strict=True) if a != b}
    # An image that is missing may change: an adoption that was cut short has un-committed its shard.
    status = load_rows(store, old, committed).status
    if good := [i for i in changed if status[old.images.row_of[i]] == GOOD]:
        lines = [f"image {i} changed, but it is in the cache" for i in sorted(good)[:5]]
        raise _refusal(store, old, new, lines)
    touched = {old.images.row_of[image_id] // old.shard_size for image_id in changed}
    for before, after in zip(old.layers, new.layers, strict=True):
        uncommit(store, before, touched)
        for shard, manifest in committed.of(before).items():
            if shard not in touched:
                moved: Manifest = manifest.model_copy(update={"layer": after.id}).sealed()
                store.replace(manifest_key(before.folder, shard), moved.data(), label="manifest")
    if view == PLAN:
        new.save(store)
    else:  # a view is called by its id
        new.save(store, f"{view[: view.rindex('-')]}-{new.id[:16]}.json")
        store.delete(view)


def _refusal(cache: Store, old: Plan, new: Plan, lines: list[str]) -> PlanMismatchError:
    more = [f"... and {len(lines) - 12} more"] if len(lines) > 12 else []
    return PlanMismatchError(
        f"{show(cache.where(), 300)} holds cache {old.id[:12]}, this run would make {new.id[:12]}: "
        + "; ".join([*lines[:12], *more])
        + ". --retry-quarantined accepts repaired files of quarantined images only: "
        "name another folder for the new cache"
    )
