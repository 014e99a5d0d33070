"""Repaired files: a cache moves over to the plan that has them, cut short anywhere or not."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.cache import (
    CacheReader,
    Plan,
    create_cache,
    finalize,
    missing_shards,
    read_committed,
    verify,
    write_shard,
)
from svp.pipeline.cache.plan import all_plans
from svp.pipeline.cache.reopen import adopt, quarantined
from svp.pipeline.errors import PlanMismatchError
from svp.pipeline.records import ImageRow, Quarantined
from svp.pipeline.store import FolderStore

Tree = Callable[[Path], dict[str, bytes]]


def repaired(plan: Plan, *rows: int) -> Plan:
    """The plan after the files of these rows were replaced."""
    images = [
        image._replace(bytes=77, xxh3="cd" * 8) if row in rows else image
        for row, image in enumerate(plan.images)
    ]
    return dataclasses.replace(plan, images=images)


def with_view(plan: Plan) -> Plan:
    """The same but for the features."""
    features = plan.recipe.features.model_copy(update={"stored": "int8"})
    return dataclasses.replace(plan, recipe=plan.recipe.model_copy(update={"features": features}))


def fill(path: Path, plan: Plan, rows: list[ImageRow | Quarantined], view: bool) -> list[int]:
    """Create or join, compute what is missing, finish; the shards that were made."""
    create_cache(path, plan, view=view)
    missing = missing_shards(path, plan, read_committed(path, plan))
    for shard, layers in missing.items():
        part = rows[shard * plan.shard_size : (shard + 1) * plan.shard_size]
        write_shard(path, plan, shard, part, {}, layers)
    finalize(path, plan, read_committed(path, plan))
    return [*missing]


def adopt_all(path: Path, *rows: int) -> None:
    """What `--retry-quarantined` does before it computes (pipeline/precompute/run.py)."""
    there = all_plans(path)
    committed = {view: read_committed(path, old) for view, old in there.items()}
    for view, old in there.items():
        adopt(path, view, old, repaired(old, *rows), committed[view])


def test_good_shards_stay_and_the_others_are_made_again(
    cache: Any, rows_of: Callable[..., Any], tmp_path: Path, tree_of: Tree
) -> None:
    new, rows = repaired(cache.plan, 2), rows_of(cache.plan)
    assert quarantined(cache.path, cache.plan, read_committed(cache.path, cache.plan)) == {0: {15}}
    adopt_all(cache.path, 2)
    assert fill(cache.path, new, rows, view=False) == [0]
    fill(tmp_path / "clean", new, rows, view=False)
    assert tree_of(cache.path) == tree_of(tmp_path / "clean")
    adopt_all(cache.path)  # nothing was repaired since
    assert tree_of(cache.path) == tree_of(tmp_path / "clean")


def test_an_image_that_is_in_the_cache_may_not_change(cache: Any, tree_of: Tree) -> None:
    before = tree_of(cache.path)
    committed = read_committed(cache.path, cache.plan)
    path = cache.path / "plan.json"
    with pytest.raises(PlanMismatchError, match="image 22 changed, but it is in the cache"):
        adopt(cache.path, path, cache.plan, repaired(cache.plan, 2, 3), committed)
    for other, match in [
        (dataclasses.replace(cache.plan, rle_bytes=2048), "rle_bytes: 1024 -> 2048"),
        (dataclasses.replace(cache.plan, images=cache.plan.images[:9]), "images: 1 removed"),
        (with_view(cache.plan), "stored: float16 -> int8"),
    ]:
        with pytest.raises(PlanMismatchError, match=match):
            adopt(cache.path, path, cache.plan, other, committed)
    assert tree_of(cache.path) == before


def test_what_one_layer_refused_may_change(made: Any) -> None:
    bad = Quarantined(36, "nonfinite_features", "NaN")
    made.rows[5] = dataclasses.replace(made.rows[5], refused={"features": bad})
    made.write()
    made.finish()
    new = repaired(made.plan, 5)
    adopt_all(made.path, 5)
    lacking = missing_shards(made.path, new, read_committed(made.path, new))
    # The other layers' rows were made from the file as it was: they are made again as well.
    assert {shard: [x.kind for x in layers] for shard, layers in lacking.items()} == {
        1: ["superpixels", "cover", "features"]
    }


def test_images_that_are_still_missing_may_change(made: Any) -> None:
    made.write([1])
    adopt_all(made.path, 0, 9)
    new = repaired(made.plan, 0, 9)
    assert [*missing_shards(made.path, new, read_committed(made.path, new))] == [0, 2]
    with pytest.raises(PlanMismatchError, match="image 36 changed, but it is in the cache"):
        adopt_all(made.path, 5)


class Interrupted(Exception):
    pass


def test_cut_short_at_any_write_the_next_retry_finishes_it(
    made: Any,
    rows_of: Callable[..., Any],
    tmp_path: Path,
    fast_path: Path,
    tree_of: Tree,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of(made.plan)
    plans = [made.plan, with_view(made.plan)]
    for view, plan in enumerate(plans):
        fill(made.path, plan, made.rows, view=bool(view))
        fill(tmp_path / "clean", repaired(plan, 2), rows, view=bool(view))
    before, clean = tree_of(made.path), tree_of(tmp_path / "clean")
    allowed, done = 0, 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal done
            if done == allowed:
                raise Interrupted
            done += 1
            return real(*args, **options)

        return call

    for allowed in range(1000):
        cache = fast_path / f"c{allowed}"
        for name, data in before.items():
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).write_bytes(data)
        done = 0
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "delete", counted(FolderStore.delete))
            for name in ("create", "replace"):
                patch.setattr(FolderStore, name, counted(getattr(FolderStore, name)))
            try:
                adopt_all(cache, 2)
                cut = False
            except Interrupted:
                cut = True
        adopt_all(cache, 2)
        for view, plan in enumerate(plans):
            again = fill(cache, repaired(plan, 2), rows, view=bool(view))
            assert 0 in again and (cut or again == [0])
        assert tree_of(cache) == clean, f"after {allowed} writes"
        assert verify(cache, full=True).ok
        assert all(CacheReader(cache, view=path).complete for path in all_plans(cache))
        if not cut:
            break
    assert 15 < allowed < 1000
