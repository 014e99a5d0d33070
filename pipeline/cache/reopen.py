"""Reopen a finished cache to add the images that were quarantined.

A repaired file has another hash, so it belongs to another plan: a cache healed in place must end up
byte for byte like one made from the good files at once. `adopt` therefore moves the committed
shards over to the new plan by rewriting their manifests (the data files do not name the plan).
Invariant: an interrupted `adopt` is finished by running it again; until then nothing is lost.
"""

from dataclasses import replace
from pathlib import Path

from ..display import show
from ..errors import PlanMismatchError
from ..io.atomic import write_file
from .index import GOOD, load_rows
from .layout import PLAN, manifest_path
from .manifest import Committed, Manifest
from .plan import Plan
from .plan_diff import diff_plans
from .verify import uncommit


def quarantined(cache: Path, plan: Plan, committed: Committed) -> dict[int, set[int]]:
    """Ids of the quarantined images by shard."""
    found: dict[int, set[int]] = {}
    for row in load_rows(cache, plan, committed).bad:
        found.setdefault(row // plan.shard_size, set()).add(int(plan.images.id[row]))
    return found


def adopt(cache: Path, view: Path, old: Plan, new: Plan, committed: Committed) -> None:
    """Give the cache of plan `old` the plan `new`, in which quarantined images were repaired.

    view       the file of `old`
    committed  by the old plan: shards without a repaired image stay committed

    Raises PlanMismatchError if the plans differ in more than the files of images that are not in
    the cache.
    """
    if old.id == new.id:
        return
    same_list = [image[:2] for image in old.images] == [image[:2] for image in new.images]
    if replace(old, images=new.images).id != new.id or not same_list:
        raise _refusal(cache, old, new, diff_plans(old, new))
    changed = {a.image_id for a, b in zip(old.images, new.images, strict=True) if a != b}
    # An image that is missing may change: an adoption that was cut short has un-committed its shard.
    status = load_rows(cache, old, committed).status
    if good := [i for i in changed if status[old.images.row_of[i]] == GOOD]:
        lines = [f"image {i} changed, but it is in the cache" for i in sorted(good)[:5]]
        raise _refusal(cache, old, new, lines)
    touched = {old.images.row_of[image_id] // old.shard_size for image_id in changed}
    for before, after in zip(old.layers, new.layers, strict=True):
        uncommit(cache, before.folder, touched)
        for shard, manifest in committed.get(before.folder, {}).items():
            if shard not in touched:
                moved: Manifest = manifest.model_copy(update={"layer": after.id}).sealed()
                path = manifest_path(cache, before.folder, shard)
                write_file(path, moved.data(), label="manifest")
    if view.name == PLAN:
        new.save(cache, view)
    else:  # a view is called by its id
        new.save(cache, view.with_name(f"{view.name[:5]}{new.id[:16]}.json"))
        view.unlink()


def _refusal(cache: Path, old: Plan, new: Plan, lines: list[str]) -> PlanMismatchError:
    more = [f"... and {len(lines) - 12} more"] if len(lines) > 12 else []
    return PlanMismatchError(
        f"{show(str(cache), 300)} holds cache {old.id[:12]}, this run would make {new.id[:12]}: "
        + "; ".join([*lines[:12], *more])
        + ". --retry-quarantined accepts repaired files of quarantined images only: "
        "name another folder for the new cache"
    )
