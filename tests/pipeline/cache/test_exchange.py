"""Layers taken over from other caches, dropped and copied; byte for byte, damage never."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.cache import (
    CacheReader,
    create_cache,
    made_by,
    missing_shards,
    read_committed,
    verify,
)
from svp.pipeline.cache.exchange import copy_cache, drop_layers, reuse, without
from svp.pipeline.cache.index import is_complete
from svp.pipeline.cache.layers import KINDS, SAM
from svp.pipeline.cache.made_by import note_code, same_code
from svp.pipeline.cache.plan import Plan, all_plans
from svp.pipeline.errors import CacheError, ConfigError
from svp.pipeline.store import FolderStore

Tree = Callable[[Path], dict[str, bytes]]


def finished(made: Any) -> Any:
    create_cache(made.path, made.plan)
    note_code(made.path, made.plan.layers)
    made.write()
    made.finish()
    return made


def test_equal_layers_are_linked_and_the_rest_is_missing(maker: Callable[..., Any]) -> None:
    full = finished(maker(layers=(1, 2), cls=True))
    other = maker()  # without cls, layers and sam
    create_cache(other.path, other.plan)
    came = reuse(other.path, other.plan, [full.path])
    assert [folder.split("/")[0] for folder in came] == ["superpixels", "cover", "features"]
    assert other.missing() == []
    other.finish()
    assert verify(other.path, full=True).ok
    spec = other.plan.arrays[0]
    assert os.path.samefile(other.path / spec.path / "c/0/0", full.path / spec.path / "c/0/0"), (
        "one file, two names"
    )
    assert reuse(other.path, other.plan, [full.path]) == {}, "nothing is brought twice"

    changed = maker(size=14 * 5)  # another view: only the superpixels are equal
    create_cache(changed.path, changed.plan)
    assert [*reuse(changed.path, changed.plan, [full.path])] == ["superpixels/sam-tiny"]
    lacking = missing_shards(changed.path, changed.plan, read_committed(changed.path, changed.plan))
    assert {layer.kind for layers in lacking.values() for layer in layers} == {"cover", "features"}


def test_other_images_are_never_taken(maker: Callable[..., Any]) -> None:
    full, fewer = finished(maker()), maker(9)
    create_cache(fewer.path, fewer.plan)
    assert reuse(fewer.path, fewer.plan, [full.path]) == {}


def test_a_damaged_shard_is_not_brought(maker: Callable[..., Any]) -> None:
    full, other = finished(maker()), maker()
    path = next((full.path / "features").glob("*/dino/c/1/0/0"))
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    create_cache(other.path, other.plan)
    assert len(reuse(other.path, other.plan, [full.path])) == 3
    lacking = missing_shards(other.path, other.plan, read_committed(other.path, other.plan))
    assert [(s, [x.kind for x in layers]) for s, layers in lacking.items()] == [(1, ["features"])]


def test_a_folder_that_is_no_cache_lends_nothing(maker: Callable[..., Any], tmp_path: Path) -> None:
    other = maker()
    create_cache(other.path, other.plan)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "plan.json").write_text("{}")
    assert reuse(other.path, other.plan, [tmp_path / "x", tmp_path / "gone"]) == {}


def test_a_copy_of_some_layers_is_a_cache_of_its_own(
    maker: Callable[..., Any], tmp_path: Path, tree_of: Tree
) -> None:
    full = finished(maker(bad=[2], layers=(1, 2), cls=True))
    copy_cache(full.path, tmp_path / "all")
    assert tree_of(tmp_path / "all") == tree_of(full.path)
    plan = copy_cache(full.path, tmp_path / "thin", ["superpixels", "cover", "features", "cls"])
    assert [layer.kind for layer in plan.layers] == ["superpixels", "cover", "features", "cls"]
    assert verify(tmp_path / "thin", full=True).ok
    assert CacheReader(tmp_path / "thin").plan == without(full.plan, ["sam", "layers"])
    with pytest.raises(ConfigError, match="no cache can do without its cover"):
        copy_cache(full.path, tmp_path / "x", ["superpixels", "features"])
    with pytest.raises(ConfigError, match="pooled"):
        copy_cache(full.path, tmp_path / "x", ["pooled"])
    assert not (tmp_path / "x").exists()
    (full.path / "sam" / "tiny" / "COMPLETE").unlink()
    with pytest.raises(CacheError, match="not complete"):
        copy_cache(full.path, tmp_path / "x")


def test_a_copy_has_what_was_added_to_the_cache(
    maker: Callable[..., Any], tmp_path: Path, tree_of: Tree
) -> None:
    """`svp cache add` makes a further plan, and leaves the first one as it was."""
    one = finished(maker())
    two = maker(cls=True)
    two.path = one.path
    create_cache(one.path, two.plan, view=True)
    with pytest.raises(CacheError, match="not complete"):
        copy_cache(one.path, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    finished(two)
    for _ in range(2):  # a second time it only compares
        assert copy_cache(one.path, tmp_path / "all").id == one.plan.id
        assert tree_of(tmp_path / "all") == tree_of(one.path)
    kinds = ["superpixels", "cover", "features"]
    assert copy_cache(one.path, tmp_path / "some", kinds) == one.plan
    assert copy_cache(one.path, tmp_path / "cls", [*kinds, "cls"]) == two.plan
    assert verify(tmp_path / "cls", full=True).ok


def test_a_dropped_layer_takes_the_plans_that_read_it(maker: Callable[..., Any]) -> None:
    full = finished(maker(layers=(1, 2), cls=True))
    assert drop_layers(full.path, ["sam"]) == ["sam/tiny"]
    plan = Plan.load(full.path)
    assert plan == without(full.plan, [SAM])
    assert is_complete(full.path, plan) and verify(full.path, full=True).ok
    assert not (full.path / "sam" / "tiny").exists()
    with pytest.raises(ConfigError, match="no such layer"):
        drop_layers(full.path, ["sam"])
    with pytest.raises(ConfigError, match="no cache can do without its superpixels"):
        drop_layers(full.path, ["superpixels"])


def test_dropping_the_first_encoder_leaves_the_second(maker: Callable[..., Any]) -> None:
    made = finished(maker())
    size = made.plan.recipe.features.model_copy(update={"size": 14 * 5})
    recipe = made.plan.recipe.model_copy(update={"features": size})
    made.plan = replace(made.plan, recipe=recipe)
    create_cache(made.path, made.plan, view=True)
    for shard in made.missing():
        from svp.pipeline.cache import write_shard

        write_shard(made.path, made.plan, shard, made.shard_rows(shard), {})
    made.finish()
    assert len(all_plans(made.path)) == 2
    gone = drop_layers(made.path, ["features/tiny-128"])
    assert gone == ["cover/sam-tiny-128", "features/tiny-128"]
    assert [plan.id for plan in all_plans(made.path).values()] == [made.plan.id]
    assert verify(made.path, full=True).ok


def test_a_shard_with_a_quarantined_image_is_tried_again(maker: Callable[..., Any]) -> None:
    """What ended one run's worker must not be carried into every cache beside it."""
    full, other = finished(maker(bad=[2])), maker(bad=[2])
    create_cache(other.path, other.plan)
    assert len(reuse(other.path, other.plan, [full.path])) == 3
    assert other.missing() == [0], "shard 0 has the bad image"


def test_other_code_lends_nothing(
    maker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    full, other = finished(maker()), maker()
    create_cache(other.path, other.plan)
    now = made_by.code_digest()
    with monkeypatch.context() as patch:
        patch.setattr(made_by, "code_digest", lambda: "f" * 64)
        assert reuse(other.path, other.plan, [full.path]) == {}
        note_code(full.path, full.plan.layers)
    assert now == made_by.code_digest() and not same_code(full.path, full.plan.layers[0])
    assert reuse(other.path, other.plan, [full.path]) == {}, "a layer that two states of it made"


def test_a_layer_without_a_record_lends_nothing(maker: Callable[..., Any]) -> None:
    full, other = maker(), maker()
    full.write([0])  # as by another svp
    note_code(full.path, full.plan.layers)
    full.write([1, 2])
    create_cache(other.path, other.plan)
    assert reuse(other.path, other.plan, [full.path]) == {}
    (full.path / "logs" / "made_by.json").write_text("[1]")
    assert reuse(other.path, other.plan, [full.path]) == {}


def test_the_code_is_the_package_and_the_rehearsal_in_force(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = made_by.code_digest()
    monkeypatch.setenv(made_by.VARIABLE, "rehearsal.yaml")
    assert made_by.code_digest() != now


@pytest.mark.parametrize(
    ("field", "left"),
    [("encoder", {"superpixels", "cover", "sam"}), ("sam", {"features", "layers", "cls"})],
)
def test_layers_of_a_plug_ins_network_are_not_shared(
    field: str, left: set[str], maker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code is not in the digest: two states of it would be taken for one."""
    recipe = maker().plan.recipe
    table = made_by.ENCODERS if field == "encoder" else made_by.SAMS
    foreign = replace(table["tiny"], module="my_package.network")  # type: ignore[type-var]
    monkeypatch.setitem(table, "tiny", foreign)  # type: ignore[arg-type]
    assert made_by.shared_kinds(recipe, KINDS) == left


def test_an_interrupted_drop_is_finished(
    maker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = finished(maker(layers=(1, 2), cls=True))

    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FolderStore, "delete_below", stopped)
        drop_layers(full.path, ["sam"])
    assert (full.path / "sam").exists() and verify(full.path, full=True).ok
    assert drop_layers(full.path, ["sam"]) == ["sam/tiny"]
    assert not (full.path / "sam" / "tiny").exists()
