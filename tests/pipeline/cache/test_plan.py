"""The plan: identity, strict reading, readable differences."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from svp.pipeline.cache import Plan, PlanImage, create_cache
from svp.pipeline.cache.plan_diff import diff_plans
from svp.pipeline.errors import CacheError, ConfigError, MissingError, PlanMismatchError
from svp.pipeline.io.json_files import canonical
from svp.pipeline.recipe import GridConfig, SuperpixelConfig


def test_id_is_the_sha256_of_the_file_and_survives_a_round_trip(
    planner: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = planner(layers=(1, 2), cls=True)
    plan.save(tmp_path)
    data = (tmp_path / "plan.json").read_bytes()
    again = Plan.load(tmp_path)
    assert again == plan
    assert again.id == plan.id == hashlib.sha256(data).hexdigest()
    assert {path.name for path in tmp_path.iterdir()} - {".partial"} == {"plan.json", "images"}
    assert [path.name for path in (tmp_path / "images").iterdir()] == [again.images.digest[:16]]


def test_shards_cut_the_image_list_without_loss(planner: Callable[..., Plan]) -> None:
    plan = planner(10)
    assert [len(plan.shard(s)) for s in range(plan.num_shards)] == [4, 4, 2]
    assert sum((plan.shard(s) for s in range(3)), ()) == tuple(plan.images)
    assert planner(0).num_shards == 0
    assert planner(8).num_shards == 2
    with pytest.raises(ConfigError, match="shard 3: the plan has shards 0 to 2"):
        plan.shard(3)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 9},
        {"split": "val"},
        {"sspe": (4, 5)},
        {"rle_bytes": 2048},
        {"digests": {"sam.safetensors": "1" * 64}},
    ],
)
def test_every_field_changes_the_id_and_is_named_in_the_diff(
    planner: Callable[..., Plan], change: dict[str, Any]
) -> None:
    plan = planner()
    other = dataclasses.replace(plan, **change)
    assert other.id != plan.id
    [line] = diff_plans(plan, other)
    assert line.startswith(next(iter(change)))
    assert diff_plans(plan, planner()) == []


def test_diff_names_recipe_fields_and_counts_images(planner: Callable[..., Plan]) -> None:
    plan = planner()
    grid = GridConfig(points_per_side=16)
    config = SuperpixelConfig(preset="custom", grid=grid, max_superpixels=6)
    images = (*plan.images[1:], PlanImage(999, "new.jpg", 4, 4, 5, "00" * 8))
    images = (images[0]._replace(bytes=98), *images[1:])
    other = dataclasses.replace(
        plan, images=images, recipe=plan.recipe.model_copy(update={"superpixels": config})
    )
    lines = diff_plans(plan, other)
    assert "recipe.superpixels.grid.points_per_side: 32 -> 16" in lines
    assert "images: 1 added (id 999)" in lines
    assert "images: 1 removed (id 1)" in lines
    assert "images: 1 changed (id 8)" in lines
    swapped = dataclasses.replace(plan, images=plan.images[::-1])
    assert diff_plans(plan, swapped) == ["images: the same, in another order"]


def test_joining_another_plan_is_refused_with_both_ids_and_the_difference(
    planner: Callable[..., Plan], tmp_path: Path
) -> None:
    plan, other = planner(), planner(9)
    create_cache(tmp_path / "c", plan)
    create_cache(tmp_path / "c", plan)
    with pytest.raises(PlanMismatchError) as caught:
        create_cache(tmp_path / "c", other)
    text = str(caught.value)
    assert plan.id[:12] in text and other.id[:12] in text
    assert "images: 1 removed (id 64)" in text
    assert caught.value.exit_code == 2
    assert Plan.load(tmp_path / "c") == plan


def test_a_folder_with_other_things_is_refused(
    planner: Callable[..., Plan], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(CacheError, match="not empty and no cache"):
        create_cache(tmp_path, planner())
    with pytest.raises(CacheError, match="thesis.txt"):
        create_cache(tmp_path / "thesis.txt", planner())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "path", ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "a\\b.jpg", "a\0b", "", "a/.."]
)
def test_paths_that_leave_the_root_are_refused(planner: Callable[..., Plan], path: str) -> None:
    plan = planner()
    images = (plan.images[0]._replace(path=path), *plan.images[1:])
    with pytest.raises(ConfigError, match="must be relative"):
        dataclasses.replace(plan, images=images)


def test_dots_inside_a_name_are_fine(planner: Callable[..., Plan]) -> None:
    plan = planner()
    images = (plan.images[0]._replace(path="a..b/c...jpg"), *plan.images[1:])
    assert dataclasses.replace(plan, images=images).images[0].path == "a..b/c...jpg"


def test_doubled_ids_are_refused(planner: Callable[..., Plan]) -> None:
    plan = planner()
    with pytest.raises(ConfigError, match="occurs twice"):
        dataclasses.replace(plan, images=(*plan.images, plan.images[0]))


def hostile() -> dict[str, Callable[[dict[str, Any]], Any]]:
    def put(**more: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda raw: {**raw, **more}

    def images(**more: object) -> Callable[[dict[str, Any]], Any]:
        return lambda raw: {**raw, "images": {**raw["images"], **more}}

    def column(name: str, **more: object) -> Callable[[dict[str, Any]], Any]:
        def change(raw: dict[str, Any]) -> Any:
            columns = raw["images"]["columns"]
            changed = columns | {name: columns.get(name, columns["id"]) | more}
            return {**raw, "images": {**raw["images"], "columns": changed}}

        return change

    return {
        "unknown key": put(extra=1),
        "the schema before": put(schema_version=1),
        "a schema to come": put(schema_version=3),
        "bool as int": put(channels=True),
        "float as int": put(channels=8.0),
        "huge channels": put(channels=10**12),
        "huge rows": put(channels=65536, grid=[65536, 65536]),
        "zero shard": put(shard_size=0),
        "negative grid": put(grid=[-2, -2]),
        "fewer images": images(count=9),
        "more images": images(count=11),
        "negative images": images(count=-1),
        "2^40 images": images(count=1 << 40),
        "no columns": images(columns={}),
        "another column": column("../x"),
        "a list in the plan": images(columns=[]),
        "short column": column("hw", bytes=79),
        "long column": column("id", bytes=1 << 61),
        "negative column": column("id", bytes=-8),
        "text as size": column("id", bytes="80"),
        "another checksum": column("paths", xxh3_128="0" * 32),
        "checksum with a path": column("paths", xxh3_128="../" + "0" * 29),
        "bad hash": column("xxh3", xxh3_128="zz"),
        "unknown recipe field": put(recipe={"weights": "x"}),
        "a list": lambda raw: [raw],
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_plans_are_refused(planner: Callable[..., Plan], tmp_path: Path, name: str) -> None:
    raw = json.loads(planner().data)
    planner().images.save(tmp_path)
    path = tmp_path / "plan.json"
    path.write_bytes(sealed(raw))
    assert Plan.load(tmp_path).id == planner().id, "the helper seals as svp does"
    path.write_bytes(sealed(hostile()[name](raw)))
    with pytest.raises(CacheError, match=r"plan\.json|images/.*image list is damaged"):
        Plan.load(tmp_path)


def sealed(raw: Any) -> bytes:
    """With a right checksum, as an attacker would write it."""
    if not isinstance(raw, dict):
        return canonical(raw)
    blank = canonical(raw | {"check": ""})
    return canonical(raw | {"check": xxhash.xxh3_64_hexdigest(blank)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"{",
        b"[" * 100_000,
        b'{"channels":NaN}',
        b'{"channels":' + b"9" * 10_000 + b"}",
        b"\xff\xfe{}",
    ],
)
def test_what_is_no_plan_is_refused_without_a_crash(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(data)
    with pytest.raises(CacheError, match=r"plan\.json"):
        Plan.load(tmp_path)


def test_doubled_keys_and_spaces_are_refused(planner: Callable[..., Plan], tmp_path: Path) -> None:
    planner().images.save(tmp_path)
    path = tmp_path / "plan.json"
    data = planner().data
    for changed in (data.replace(b'"channels":8', b'"channels":8,"channels":8'), b" " + data):
        assert changed != data
        path.write_bytes(changed)
        with pytest.raises(CacheError, match="canonical"):
            Plan.load(tmp_path)


def test_links_and_absence_are_told_apart(planner: Callable[..., Plan], tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not a cache of svp"):
        Plan.load(tmp_path)
    planner().save(tmp_path)
    (tmp_path / "plan.json").rename(tmp_path / "real.json")
    (tmp_path / "plan.json").symlink_to("real.json")
    with pytest.raises(CacheError, match="a symbolic link inside the cache"):
        Plan.load(tmp_path)


def test_no_flipped_byte_of_a_plan_is_overlooked(
    planner: Callable[..., Plan], tmp_path: Path
) -> None:
    """Also of what is part of no layer: the split, the digests, settings another source reads."""
    plan = planner()
    plan.save(tmp_path)
    path = tmp_path / "plan.json"
    for place in range(len(plan.data)):
        for mask in (0xFF, 0x01, 0x20):
            data = bytearray(plan.data)
            data[place] ^= mask
            path.write_bytes(data)
            with pytest.raises((CacheError, MissingError), match=r"plan\.json|images/"):
                Plan.load(tmp_path)


OLD = b"""{"channels":8,"digests":{},"grid":[2,2],"images":{"bytes":[9],"height":[6],"image_id":[1],\
"path":["0.png"],"width":[5],"xxh3":["abababababababab"]},"recipe":{},"rle_bytes":1024,\
"sam":null,"schema_version":1,"shard_size":2,"split":"train","sspe":[2,2]}
"""


@pytest.mark.parametrize("images", [1, 600_000])
def test_a_plan_of_schema_1_names_the_way_to_convert_it(tmp_path: Path, images: int) -> None:
    """Of any size: the first format had the image list in this file."""
    cache = tmp_path / "old cache"
    cache.mkdir()
    path = cache / "plan.json"
    paths = b",".join([b'"' + b"x" * 40 + b'"'] * images)
    data = OLD.replace(b"\\\n", b"").replace(b'"0.png"', paths)
    assert (len(data) > 16 << 20) == (images > 1)
    path.write_bytes(data)
    for call in (Plan.load, lambda path: create_cache(path, Plan.load(path))):
        with pytest.raises(CacheError, match=r"cache schema 1.*`svp cache convert .*old cache"):
            call(cache)


def test_a_folder_of_images_is_no_left_over(planner: Callable[..., Plan], tmp_path: Path) -> None:
    """What a run leaves that is killed before its plan is there may be taken up; nothing else."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "0.jpg").write_bytes(b"x")
    with pytest.raises(CacheError, match="not empty and no cache"):
        create_cache(tmp_path, planner())
    (images / "0.jpg").unlink()
    planner(3).images.save(tmp_path)  # of a run with other images
    create_cache(tmp_path, planner())
    assert [path.name for path in images.iterdir() if path.is_dir()] == [
        planner().images.digest[:16]
    ]
