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
from .layout import PLAN, manifest_path
from .manifest import QUARANTINED, Committed, Manifest
from .plan import Plan
from .plan_diff import diff_plans
from .verify import uncommit


def quarantined(committed: Committed) -> dict[int, set[int]]:
    """Ids of the quarantined images by shard."""
    found = {shard: _bad_ids(manifest) for shard, manifest in committed.items()}
    return {shard: bad for shard, bad in found.items() if bad}


def adopt(cache: Path, old: Plan, new: Plan, committed: Committed) -> None:
    """Give the cache of plan `old` the plan `new`, in which quarantined images were repaired.

    Shards of `committed`, by the old plan, without a repaired image stay committed. Raises PlanMismatchError if the plans differ in
    more than the files of images that are not in the cache.
    """
    if old.id == new.id:
        return
    same_list = [image[:2] for image in old.images] == [image[:2] for image in new.images]
    if replace(old, images=new.images).id != new.id or not same_list:
        raise _refusal(cache, old, new, diff_plans(old, new))
    changed = {a.image_id for a, b in zip(old.images, new.images, strict=True) if a != b}
    keep: list[Manifest] = []
    for shard, manifest in committed.items():
        touched = changed & {image.image_id for image in old.shard(shard)}
        if good := touched - _bad_ids(manifest):
            lines = [f"image {i} changed, but it is in the cache" for i in sorted(good)[:5]]
            raise _refusal(cache, old, new, lines)
        if not touched:
            keep.append(manifest)
    uncommit(cache, ())
    for manifest in keep:
        moved = manifest.model_copy(update={"cache": new.id}).sealed()
        write_file(manifest_path(cache, manifest.shard), moved.data(), label="manifest")
    new.save(cache / PLAN)


def _bad_ids(manifest: Manifest) -> set[int]:
    return {entry.id for entry in manifest.images if entry.status == QUARANTINED}


def _refusal(cache: Path, old: Plan, new: Plan, lines: list[str]) -> PlanMismatchError:
    more = [f"... and {len(lines) - 12} more"] if len(lines) > 12 else []
    return PlanMismatchError(
        f"{show(str(cache), 300)} holds cache {old.id[:12]}, this run would make {new.id[:12]}: "
        + "; ".join([*lines[:12], *more])
        + ". --retry-quarantined accepts repaired files of quarantined images only: "
        "name another folder for the new cache"
    )
