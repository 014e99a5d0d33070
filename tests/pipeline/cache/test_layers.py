"""What decides a layer's identity, and how layers are written, shared and mended one by one."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from svp.pipeline.cache import (
    CacheReader,
    Plan,
    create_cache,
    finalize,
    missing_shards,
    read_committed,
    repair,
    uncommit,
    verify,
    write_shard,
)
from svp.pipeline.cache.index import is_complete, load_rows
from svp.pipeline.cache.layers import KINDS, library_names
from svp.pipeline.cache.plan import all_plans
from svp.pipeline.errors import CacheError, MissingError, PlanMismatchError
from svp.pipeline.recipe import FeatureConfig, OrderConfig, Recipe, SecondEncoder, SuperpixelConfig
from svp.pipeline.records import ImageRow, Quarantined

Tree = Callable[[Path], dict[str, bytes]]
Kinds = frozenset[str]


def kinds(text: str) -> Kinds:
    """From the first letters: Superpixels, Cover, Pooled, Features, Layers, clS token (t), sAm (a), Order (o)."""
    letters = dict(zip("scpfltao", KINDS, strict=True))
    return frozenset(letters[letter] for letter in text)


# Field of the recipe -> another value; the layers that it decides where SAM is prompted, and where
# the superpixels are SLIC's and SAM's embedding lies beside. No field decides none of both.
FIELDS: dict[str, tuple[object, str, str]] = {
    "superpixels.source": ("masks", "scpo", "scpo"),
    "superpixels.made": ("0" * 64, "scpo", "scpo"),
    "superpixels.model": ("vit_b", "scpao", "a"),
    "superpixels.package": ("transformers", "scpao", "a"),
    "superpixels.weights": ("random:1", "scpao", "a"),
    "superpixels.mode": ("exact", "scpao", "a"),
    "superpixels.dtype": ("bfloat16", "scpao", "a"),
    "superpixels.preset": ("svp", "scpo", ""),
    "superpixels.grid.points_per_side": (16, "scpo", ""),
    "superpixels.grid.crop_n_layers": (1, "scpo", ""),
    "superpixels.grid.crop_overlap_ratio": (0.5, "scpo", ""),
    "superpixels.grid.crop_n_points_downscale_factor": (1, "scpo", ""),
    "superpixels.grid.pred_iou_thresh": (0.5, "scpo", ""),
    "superpixels.grid.stability_score_thresh": (0.5, "scpo", ""),
    "superpixels.grid.stability_score_offset": (0.5, "scpo", ""),
    "superpixels.grid.box_nms_thresh": (0.5, "scpo", ""),
    "superpixels.grid.crop_nms_thresh": (0.5, "scpo", ""),
    "superpixels.grid.min_mask_region_area": (0, "scpo", ""),
    "superpixels.grid.score_thresh_offset": ((0.0, 0.1, 0.1), "scpo", ""),
    "superpixels.grid.score_nms_offset": ((0.0, 0.1, 1.0), "scpo", ""),
    "superpixels.grid.stability_score_bias": ((0.0, 0.1, 0.0), "scpo", ""),
    "superpixels.grid.rock_sand_water_thresh": (0.5, "scpo", ""),
    "superpixels.points_per_batch": (64, "scpo", ""),
    "superpixels.slic.n_segments": (30, "", "scpo"),
    "superpixels.slic.compactness": (5.0, "", "scpo"),
    "superpixels.slic.sigma": (1.0, "", "scpo"),
    "superpixels.max_superpixels": (7, "scpo", "scpo"),
    "superpixels.cap": ("AAAA", "scpo", "scpo"),
    "features.encoder": ("dinov2-large", "pflto", "pflto"),
    "features.weights": ("random:1", "pflto", "pflto"),
    "features.view": ("pad", "cpflto", "cpflto"),
    "features.size": (140, "cpflto", "cpflto"),
    "features.layers": ((1, 3), "l", "l"),
    "features.cls": (False, "t", "t"),
    "features.dtype": ("bfloat16", "pflto", "pflto"),
    "features.stored": ("int8", "f", "f"),
    "features.pooled": (False, "po", "po"),
    "features.second.encoder": ("dinov2-large", "l", "l"),
    "features.second.weights": ("random:1", "l", "l"),
    "features.second.size": (64, "l", "l"),
    "sspe.budget": (1024, "cpo", "cpo"),
    "store_sam_embeddings": (False, "a", "a"),
    "sam_stored": ("int8", "a", "a"),
    "order.prior": ("AAAA", "o", "o"),
    "batch": (4, "scpfltao", "pfltao"),
    "libraries": ({"numpy": "9"}, "scpfltao", "scpfltao"),
}


def full_recipe(source: str) -> Recipe:
    """A recipe whose plan has every kind of layer."""
    return Recipe(
        superpixels=SuperpixelConfig(
            source=source, mode="fast", preset="custom", max_superpixels=6
        ),
        features=FeatureConfig(
            layers=(1, 2), cls=True, pooled=True, second=SecondEncoder(encoder="tiny")
        ),
        store_sam_embeddings=True,
        order=OrderConfig(prior="AAAB", thresholds=(0.5,)),
    )


def full_plan(plan: Plan, recipe: Recipe) -> Plan:
    sam = (2, 3, 3) if recipe.store_sam_embeddings else None
    return dataclasses.replace(plan, recipe=recipe, sam=sam)


def leaves(group: BaseModel, prefix: str = "") -> Iterator[str]:
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def with_field(recipe: Recipe, name: str, value: object) -> Recipe:
    raw = recipe.model_dump()
    *groups, last = name.split(".")
    inner = raw
    for group in groups:
        inner = inner[group]
    assert inner.get(last) != value, name
    inner[last] = value
    return Recipe.model_validate(raw)


def changed(old: Plan, new: Plan) -> Kinds:
    """Kinds of the layers that are not the same in both."""
    before, after = ({layer.kind: layer.id for layer in plan.layers} for plan in (old, new))
    return frozenset(kind for kind in KINDS if before.get(kind) != after.get(kind))


def test_each_field_of_a_recipe_is_decided_on() -> None:
    # Thresholds choose superpixels when they are read; what is stored is the same.
    unread = {"order.thresholds", "order.shape"}
    assert {*leaves(full_recipe("sam"))} == FIELDS.keys() | unread
    plan = full_recipe("sam")
    other = with_field(plan, "order.thresholds", (0.25,))
    assert other.digest() != plan.digest()


@pytest.mark.parametrize("source", ["sam", "slic"])
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_changes_the_layers_that_it_decides(
    planner: Callable[..., Plan], name: str, source: str
) -> None:
    value, sam, slic = FIELDS[name]
    base = full_plan(planner(), full_recipe(source))
    assert [layer.kind for layer in base.layers] == [*KINDS]
    other = full_plan(planner(), with_field(base.recipe, name, value))
    assert other.id != base.id
    assert changed(base, other) == kinds(sam if source == "sam" else slic)


def test_what_is_stored_by_means_hangs_on_them(planner: Callable[..., Plan]) -> None:
    """A superpixel elsewhere changes the cover, so the means, so what features differ by from them."""
    plan = planner(stored="mean+int4")
    found = {layer.kind: layer for layer in plan.layers}
    assert [layer.kind for layer in found["pooled"].needs] == ["cover"]
    assert [layer.kind for layer in found["features"].needs] == ["cover", "pooled"]
    other = dataclasses.replace(plan, recipe=with_field(plan.recipe, "sspe.budget", 1024))
    assert changed(plan, other) == {"cover", "pooled", "features"}
    exact = with_field(plan.recipe, "features.stored", "float16")
    beside = dataclasses.replace(plan, recipe=with_field(exact, "features.pooled", True))
    assert changed(plan, beside) == {"features"}, "the means are those of the features themselves"


@pytest.mark.parametrize("change", [{}, {"stored": "int8"}])
def test_recipes_without_new_fields_have_their_old_form(change: dict[str, Any]) -> None:
    raw = json.loads(Recipe(features=FeatureConfig.model_validate(change)).canonical())
    assert not {"pooled", "second"} & raw["features"].keys()
    assert not {"sam_stored", "order"} & raw.keys()


@pytest.mark.parametrize(
    ("change", "letters"),
    [
        ({"split": "val"}, ""),
        ({"digests": {}}, ""),
        ({"grid": (2, 3)}, "cpflto"),
        ({"channels": 16}, "pflto"),
        ({"sspe": (4, 5)}, "cpo"),
        ({"rle_bytes": 2048}, "scpo"),
        ({"sam": (2, 4, 4)}, "a"),
        ({"shard_size": 5}, "scpfltao"),
        ({"schema": 2}, ""),
    ],
)
def test_a_size_of_the_plan_changes_the_layers_that_have_it(
    planner: Callable[..., Plan], change: dict[str, Any], letters: str
) -> None:
    plan = full_plan(planner(), full_recipe("sam"))
    assert changed(plan, dataclasses.replace(plan, **change)) == kinds(letters)


def test_a_library_decides_the_layers_of_its_encoder_alone(
    planner: Callable[..., Plan],
) -> None:
    """timm computes PE-Spatial: beside another encoder it has no part in that one's layers."""
    base = full_recipe("sam")
    for encoder, second, wanted in (
        ("tiny", "pe-spatial-tiny", "l"),
        ("pe-spatial-tiny", "tiny", "pflt"),
        ("tiny", "tiny", ""),
    ):
        beside = SecondEncoder(encoder=second)
        features = base.features.model_copy(update={"encoder": encoder, "second": beside})
        recipe = base.model_copy(update={"features": features, "libraries": {"timm": "1"}})
        plan = full_plan(planner(), recipe)
        found = {layer.kind for layer in plan.layers if "timm" in layer.made["libraries"]}
        assert found == kinds(wanted), (encoder, second)


def test_each_field_of_a_plan_is_decided_on() -> None:
    tried = {"split", "digests", "grid", "channels", "sspe", "rle_bytes", "sam", "shard_size"}
    fields = {field.name for field in dataclasses.fields(Plan)}
    assert fields == tried | {"schema", "recipe", "images"}


def test_other_images_change_every_layer_but_not_how_it_is_made(
    planner: Callable[..., Plan],
) -> None:
    plan = full_plan(planner(), full_recipe("sam"))
    image = plan.images[3]
    for more in ({"bytes": 98}, {"path": "e/3.jpg"}, {"xxh3": "cd" * 8}, {"height": 13}):
        images = (*plan.images[:3], image._replace(**more), *plan.images[4:])
        other = dataclasses.replace(plan, images=images)
        assert changed(plan, other) == {*KINDS}, more
        for old, new in zip(plan.layers, other.layers, strict=True):
            assert (old.recipe_id, old.folder) == (new.recipe_id, new.folder)
    swapped = dataclasses.replace(plan, images=plan.images[::-1])
    assert changed(plan, swapped) == {*KINDS}


@pytest.mark.parametrize("source", ["sam", "slic", "masks"])
def test_a_library_is_part_of_the_layers_it_computes(
    planner: Callable[..., Plan], source: str
) -> None:
    base = full_plan(planner(), full_recipe(source))
    mattered: dict[str, Kinds] = {}
    for name in (*library_names(base.recipe), "pydantic"):
        recipe = base.recipe.model_copy(update={"libraries": {name: "9"}})
        mattered[name] = changed(base, full_plan(base, recipe))
    assert mattered.pop("pydantic") == frozenset()
    assert mattered.pop("numpy") == mattered.pop("numcodecs") == {*KINDS}
    assert mattered.pop("pillow") == {*KINDS}  # the cover's because of the superpixels
    seen = kinds("scpfltao" if source == "sam" else "pfltao")
    assert mattered.pop("torch") == mattered.pop("torchvision") == seen
    assert mattered.pop("transformers") == kinds("pflto")
    assert mattered.pop("segment-anything") == kinds("scpao" if source == "sam" else "a")
    if source == "slic":
        assert mattered.pop("scikit-image") == kinds("scpo")
    assert mattered == {"scipy": kinds("po" if source == "masks" else "scpo")}  # sparse sums


def other_encoder(plan: Plan, weights: str = "shipped") -> Plan:
    recipe = with_field(plan.recipe, "features.encoder", "dinov2-small")
    if weights != "shipped":
        recipe = with_field(recipe, "features.weights", weights)
    return dataclasses.replace(plan, recipe=recipe)


def test_plans_that_differ_in_the_encoder_share_superpixels_and_cover(
    planner: Callable[..., Plan],
) -> None:
    plan = planner()
    other = other_encoder(plan)
    assert changed(plan, other) == {"features"}
    folders = [[layer.folder for layer in one.layers] for one in (plan, other)]
    assert folders[0][:2] == folders[1][:2] == ["superpixels/sam-tiny", "cover/sam-tiny-128"]
    assert folders[0][2:] != folders[1][2:] == ["features/dinov2-small-128"]


def test_layer_json_says_what_the_layer_is(cache: Any) -> None:
    import hashlib

    ids = {layer.kind: layer.id for layer in cache.plan.layers}
    for layer in cache.plan.layers:
        data = (cache.path / layer.folder / "layer.json").read_bytes()
        assert hashlib.sha256(data).hexdigest() == layer.id
        raw = json.loads(data)
        assert raw["images"] == cache.plan.images.digest and raw["kind"] == layer.kind
        needs = {"superpixels": ids["superpixels"]} if layer.kind == "cover" else {}
        assert raw["needs"] == needs


def test_a_kind_that_the_plan_lacks_names_those_it_has(cache: Any) -> None:
    with pytest.raises(CacheError, match=r"no layer sam; it has superpixels/sam-tiny, .*cache add"):
        cache.plan.layer("sam")


# Views.


def add_view(made: Any, plan: Plan) -> tuple[Path, list[ImageRow | Quarantined]]:
    """Add `plan` as a view and compute what it lacks; its file and its rows."""
    rows = [
        row if isinstance(row, Quarantined) else dataclasses.replace(row, patches=-row.patches)
        for row in made.rows
    ]
    view = create_cache(made.path, plan, view=True)
    committed = read_committed(made.path, plan)
    for shard, layers in missing_shards(made.path, plan, committed).items():
        assert [layer.kind for layer in layers] == ["features"]
        part = rows[shard * plan.shard_size : (shard + 1) * plan.shard_size]
        write_shard(made.path, plan, shard, part, {}, layers)
    finalize(made.path, plan, read_committed(made.path, plan))
    return view, rows


def test_a_view_stores_what_it_shares_once(cache: Any, tree_of: Tree) -> None:
    before = tree_of(cache.path)
    plan = other_encoder(cache.plan)
    view, rows = add_view(cache, plan)
    after = tree_of(cache.path)
    assert {name: after[name] for name in before} == before, "nothing that was there changed"
    new = {"/".join(name.split("/")[:2]) for name in after.keys() - before.keys()}
    assert new == {f"views/{view.removeprefix('views/')}", "features/dinov2-small-128"}
    assert view == create_cache(cache.path, plan, view=True) == create_cache(cache.path, plan)
    assert create_cache(cache.path, cache.plan) == "plan.json"
    assert {path: found.id for path, found in all_plans(cache.path).items()} == {
        "plan.json": cache.plan.id,
        view: plan.id,
    }
    main, other = CacheReader(cache.path), CacheReader(cache.path, view=view)
    assert main.complete and other.complete and is_complete(cache.path, plan)
    for i, (old, row) in enumerate(zip(cache.rows, rows, strict=True)):
        if isinstance(row, ImageRow):
            np.testing.assert_array_equal(main.features(i), old.patches)
            np.testing.assert_array_equal(other.features(i), row.patches)
            assert other.superpixels(i).rles == row.superpixels.rles
    assert verify(cache.path, full=True).ok
    assert verify(cache.path).files == 33 + 3


def test_damage_of_a_view_is_its_own(cache: Any, tree_of: Tree) -> None:
    plan = other_encoder(cache.plan)
    view, _ = add_view(cache, plan)
    before = tree_of(cache.path)
    name = "features/dinov2-small-128/dino/c/1/0/0"
    (cache.path / name).write_bytes(bytes(len(before[name])))
    report = verify(cache.path, full=True)
    assert (report.bad_shards, [problem for problem, _ in report.problems]) == ((1,), [name])
    assert repair(cache.path) == [1]
    assert CacheReader(cache.path).complete and not CacheReader(cache.path, view=view).complete
    assert verify(cache.path).missing == (1,)
    assert cache.missing() == []
    add_view(cache, plan)
    assert tree_of(cache.path) == before
    (cache.path / view).write_bytes((cache.path / view).read_bytes()[:-2])
    for call in (verify, repair, lambda path: create_cache(path, cache.plan)):
        with pytest.raises(CacheError, match=view):
            call(cache.path)
    assert CacheReader(cache.path).complete, "who reads the first plan needs no other"


def test_views_that_do_not_fit_are_refused_and_change_nothing(
    cache: Any, tree_of: Tree, planner: Callable[..., Plan]
) -> None:
    before = tree_of(cache.path)
    plan = cache.plan
    fewer = dataclasses.replace(plan, images=plan.images[:9])
    budget = plan.recipe.model_copy(update={"sspe": type(plan.recipe.sspe)(budget=1024)})
    otherwise = dataclasses.replace(plan, recipe=budget)
    sizes = dataclasses.replace(plan, shard_size=5)
    for other, match in [
        (fewer, r"images: 1 removed \(id 64\): make the layers of a cache from the same images"),
        (sizes, r"shard_size: 4 -> 5: make the layers"),
        (otherwise, r"budget.*cover/sam-tiny-128 is there and made otherwise: use its settings"),
    ]:
        with pytest.raises(PlanMismatchError, match=match):
            create_cache(cache.path, other, view=True)
    with pytest.raises(PlanMismatchError, match="use the recipe and images it was made with"):
        create_cache(cache.path, other_encoder(plan))
    view, _ = add_view(cache, other_encoder(plan))
    there = tree_of(cache.path)
    weights = other_encoder(plan, weights="random:1")
    with pytest.raises(PlanMismatchError, match="features/dinov2-small-128 is there and made"):
        create_cache(cache.path, weights, view=True)
    assert tree_of(cache.path) == there
    assert {name: there[name] for name in before} == before and (cache.path / view).exists()


def test_a_view_of_a_cache_that_is_not_there(cache: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"views/0001-x\.json: no such file"):
        CacheReader(cache.path, view="views/0001-x.json")
    assert create_cache(tmp_path / "new", cache.plan, view=True) == "plan.json"


# Some layers.


def test_layers_written_one_by_one_are_those_written_at_once(
    maker: Callable[..., Any], tree_of: Tree
) -> None:
    whole, parts = (maker(bad=[2], layers=(1, 2), cls=True) for _ in range(2))
    whole.write()
    create_cache(parts.path, parts.plan)
    order = [4, 1, 5, 0, 3, 2]  # of KINDS: the cover before the superpixels, too
    assert len(parts.plan.layers) == len(order)
    for at in order:
        layer = parts.plan.layers[at]
        for shard in range(parts.plan.num_shards):
            rows = [only(row, layer.kind) for row in parts.shard_rows(shard)]
            written = write_shard(parts.path, parts.plan, shard, rows, {}, [layer])
            assert [*written] == [layer.folder] and written[layer.folder].layer == layer.id
    assert tree_of(parts.path) == tree_of(whole.path)
    whole.finish(), parts.finish()
    assert tree_of(parts.path) == tree_of(whole.path)
    assert verify(parts.path, full=True).ok


def only(row: ImageRow | Quarantined, kind: str) -> ImageRow | Quarantined:
    """A row with the values of one layer alone."""
    if isinstance(row, Quarantined):
        return row
    fields = {"superpixels": ["superpixels"], "cover": ["cover", "sspe_masks", "superpixels"]}
    fields |= {"features": ["patches"]}
    wanted = fields.get(kind, [kind])
    return ImageRow(row.image_id, **{name: getattr(row, name) for name in wanted})


def test_a_layer_whose_values_are_not_there_is_an_error(made: Any) -> None:
    create_cache(made.path, made.plan)
    for layer, missing in zip(made.plan.layers, ("superpixels", "cover", "patches"), strict=True):
        rows = [
            row if isinstance(row, Quarantined) else dataclasses.replace(row, **{missing: None})
            for row in made.shard_rows(0)
        ]
        with pytest.raises(CacheError, match=f"image 1: the row has no {missing}"):
            write_shard(made.path, made.plan, 0, rows, {}, [layer])
    assert not list(made.path.glob("*/*/manifest/*.json"))


def test_a_row_counts_only_where_every_layer_has_it(made: Any) -> None:
    create_cache(made.path, made.plan)
    for done, layer in enumerate(made.plan.layers):
        reader = CacheReader(made.path)
        assert [reader.status(i) for i in (0, 3)] == ["missing", "missing"]
        assert reader.status(2) == ("quarantined" if done else "missing")
        lacking = missing_shards(made.path, made.plan, read_committed(made.path, made.plan))
        assert [x.kind for x in lacking[0]] == [x.kind for x in made.plan.layers[done:]]
        write_shard(made.path, made.plan, 0, made.shard_rows(0), {}, [layer])
    reader = CacheReader(made.path)
    assert [reader.status(i) for i in range(5)] == ["ok", "ok", "quarantined", "ok", "missing"]


# What one layer refuses.


def refusing(row: ImageRow, **refused: str) -> ImageRow:
    reasons = {
        kind: Quarantined(row.image_id, reason, f"{kind} says so")
        for kind, reason in refused.items()
    }
    return dataclasses.replace(row, refused=reasons)


def test_what_a_layer_refuses_is_good_in_the_others(
    made: Any, maker: Callable[..., Any], tree_of: Tree
) -> None:
    made.rows[5] = refusing(made.rows[5], features="nonfinite_features")
    made.rows[6] = refusing(made.rows[6], superpixels="sam_failed", features="nonfinite_features")
    made.rows[7] = refusing(made.rows[7], cover="too-thin")
    made.write()
    made.finish()
    bad = {
        layer.kind: {row: reason for row, (reason, _) in layer_bad(made, layer).items()}
        for layer in made.plan.layers
    }
    assert bad == {
        "superpixels": {2: "truncated", 6: "sam_failed"},
        "cover": {2: "truncated", 6: "sam_failed", 7: "too-thin"},  # made from the superpixels
        "features": {2: "truncated", 5: "nonfinite_features", 6: "nonfinite_features"},
    }
    reader = CacheReader(made.path)
    assert [(one.image_id, one.reason, one.detail) for one in reader.quarantined] == [
        (15, "truncated", "file 2 ends early"),
        (36, "nonfinite_features", "features says so"),
        (43, "sam_failed", "superpixels says so"),  # the first layer's reason
        (50, "too-thin", "cover says so"),
    ]
    assert reader.rows.k[[5, 6, 7]].tolist() == [0, 0, 0]
    assert verify(made.path, full=True).ok
    # The layers that are good have the bytes of a cache in which nothing was refused.
    clean = maker(bad=[2])
    clean.write()
    clean.finish()
    ours, theirs = tree_of(made.path), tree_of(clean.path)
    differ = {name for name in ours if ours[name] != theirs[name]}
    assert {name.split("/c/1")[0] for name in differ if "/c/1" in name} == {
        spec.path for spec in made.plan.arrays
    }
    zeroed = read_layer(made, "superpixels", "area", 5), read_layer(clean, "superpixels", "area", 5)
    np.testing.assert_array_equal(*zeroed)
    assert zeroed[0].any() and not read_layer(made, "superpixels", "area", 6).any()
    assert read_layer(made, "features", "dino", 7).any()
    assert not read_layer(made, "features", "dino", 5).any()


@pytest.mark.parametrize("missing", ["cover", "features"])
def test_means_of_what_another_layer_refused_are_refused(
    maker: Callable[..., Any], missing: str
) -> None:
    """Also where the means alone are written, beside layers that are there."""
    made = maker(pooled=True)
    create_cache(made.path, made.plan)
    gone = {"cover": {"cover": None}, "features": {"patches": None}}[missing]
    made.rows[1] = dataclasses.replace(refusing(made.rows[1], **{missing: "too-thin"}), **gone)
    layer = made.plan.layer("pooled")
    written = write_shard(made.path, made.plan, 0, made.shard_rows(0), {}, [layer])
    assert written[layer.folder].bad == [(1, "too-thin", f"{missing} says so")]


def read_layer(made: Any, kind: str, name: str, row: int) -> Any:
    """A stored row, good in the other layers or not."""
    import zarr

    folder = made.path / made.plan.layer(kind).folder / name
    return np.asarray(zarr.open_array(folder, mode="r")[row])


def layer_bad(made: Any, layer: Any) -> Any:
    from svp.pipeline.cache.index import layer_rows

    return layer_rows(made.path, layer).bad


def test_the_reasons_of_manifests_and_of_the_index_agree(made: Any) -> None:
    made.rows[5] = refusing(made.rows[5], features="nonfinite_features", cover="too-thin")
    made.write()
    before = load_rows(made.path, made.plan)
    made.finish()
    after = load_rows(made.path, made.plan)
    assert before.bad == after.bad and after.bad[5] == ("too-thin", "cover says so")
    assert before.status.tolist() == after.status.tolist()
    assert before.k.tolist() == after.k.tolist() and before.fallback == after.fallback
    assert after.complete and not before.complete


@pytest.mark.parametrize("kind", ["superpixels", "cover", "features"])
def test_uncommit_and_resume_touch_one_layer(cache: Any, tree_of: Tree, kind: str) -> None:
    before = tree_of(cache.path)
    layer = cache.plan.layer(kind)
    uncommit(cache.path, layer, [0, 2])
    gone = before.keys() - tree_of(cache.path).keys()
    records = {"COMPLETE", "index.json", "manifest/0.json", "manifest/2.json"}
    records |= {
        f"{x.path.split('/')[-1]}/c/{s}{'/0' * len(x.row)}" for x in layer.arrays for s in (0, 2)
    }
    assert gone == {f"{layer.folder}/{name}" for name in records}
    committed = read_committed(cache.path, cache.plan)
    lacking = missing_shards(cache.path, cache.plan, committed)
    assert {shard: [x.kind for x in layers] for shard, layers in lacking.items()} == {
        0: [kind],
        2: [kind],
    }
    assert cache.resume() == [0, 2]
    assert tree_of(cache.path) == before
