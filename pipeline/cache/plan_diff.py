"""Differences between two plans, as lines for an error message."""

from collections.abc import Iterator, Mapping

from ..display import show
from .image_list import Images
from .plan import Plan

EXAMPLES = 3


def diff_plans(old: Plan, new: Plan) -> list[str]:
    """One line per differing field, `name: old -> new`; images are summed up with examples."""
    names = ("schema", "split", "grid", "channels", "sspe", "rle_bytes", "sam", "shard_size")
    lines = [
        f"{name}: {show(getattr(old, name))} -> {show(getattr(new, name))}"
        for name in names
        if getattr(old, name) != getattr(new, name)
    ]
    pairs = (
        ("recipe", old.recipe.model_dump(mode="json"), new.recipe.model_dump(mode="json")),
        ("digests", old.digests, new.digests),
    )
    for name, left, right in pairs:
        lines += _diff_mapping(name, left, right)
    return lines + list(_diff_images(old.images, new.images))


def _diff_mapping(name: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for key in sorted({*old, *new}):
        left, right = old.get(key), new.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _diff_mapping(f"{name}.{key}", left, right)
        elif left != right:
            yield f"{name}.{show(key)}: {show(left)} -> {show(right)}"


def _diff_images(old: Images, new: Images) -> Iterator[str]:
    if old == new:
        return
    before, after = ({image.image_id: image for image in images} for images in (old, new))
    groups = {
        "added": [i for i in after if i not in before],
        "removed": [i for i in before if i not in after],
        "changed": [i for i in after if i in before and after[i] != before[i]],
    }
    for what, ids in groups.items():
        if ids:
            some = ", ".join(map(str, ids[:EXAMPLES])) + (", ..." if len(ids) > EXAMPLES else "")
            yield f"images: {len(ids)} {what} (id {some})"
    if before == after and old != new:
        yield "images: the same, in another order"
