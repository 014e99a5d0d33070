"""Manifests and the index: any damage is refused by name, a resume trusts only sound shards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from svp.pipeline.cache import (
    CacheReader,
    committed_shards,
    missing_shards,
    read_committed,
    uncommit,
)
from svp.pipeline.cache.index import load_rows
from svp.pipeline.cache.manifest import read_manifest
from svp.pipeline.errors import CacheError
from svp.pipeline.io.json_files import canonical
from svp.pipeline.records import ImageRow


def test_it_records_what_became_of_each_image(made: Any) -> None:
    made.write()
    for layer in made.plan.layers:
        found = read_manifest(made.path, layer, 0)
        assert found.bad == [(2, "truncated", "file 2 ends early")]
        assert set(found.files) == {spec.name for spec in layer.arrays}
        for name, file in found.files.items():
            shard = made.path / layer.folder / name / "c" / "0"
            [path] = [p for p in shard.rglob("*") if p.is_file()] or [shard]
            assert path.stat().st_size == file.bytes
            assert xxhash.xxh3_64_hexdigest(path.read_bytes()) == file.xxh3
        good = [row.superpixels for row in made.rows[:4] if isinstance(row, ImageRow)]
        if layer.kind != "superpixels":
            assert not (found.k or found.fallback or found.survivors)
            continue
        counts = [*map(len, good)]
        assert found.k == [*counts[:2], 0, counts[2]]
        slots = [0, 1, 3]
        assert found.fallback == [s for s, one in zip(slots, good, strict=True) if one.fallback]
        for step, left in found.survivors.items():
            assert [left[slot] for slot in slots] == [one.survivors[step] for one in good]
            assert left[2] == 0
        assert set(found.survivors) == {"score", "nms"}


RECORDS = [
    f"{folder}/{name}"
    for folder in ("superpixels/sam-tiny", "features/tiny-128")
    for name in ("manifest/1.json", "index.json", "COMPLETE")
]


@pytest.mark.parametrize("name", [*RECORDS, "plan.json"])
def test_no_flipped_byte_is_overlooked(cache: Any, name: str) -> None:
    path = cache.path / name
    data = path.read_bytes()
    if name == "features/tiny-128/manifest/1.json":  # only read while there is no index
        (path.parents[1] / "COMPLETE").unlink()
    for place in range(0, len(data), max(1, len(data) // 25)):
        for mask in (0xFF, 0x01):
            path.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
            with pytest.raises(CacheError, match=r"\.json|COMPLETE"):
                CacheReader(cache.path).superpixels(4)
    for size in range(0, len(data), max(1, len(data) // 8)):
        path.write_bytes(data[:size])
        with pytest.raises(CacheError, match=r"\.json|COMPLETE"):
            CacheReader(cache.path).superpixels(4)


def hostile() -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Changes of the superpixels' manifest of a shard of four images, the third quarantined."""

    def put(**more: object) -> Callable[[dict[str, Any]], Any]:
        return lambda raw: {**raw, **more}

    def file(**more: object) -> Callable[[dict[str, Any]], Any]:
        return lambda raw: {**raw, "files": {**raw["files"], "area": more}}

    def bad(*slots: int) -> Callable[[dict[str, Any]], Any]:
        return put(bad=[[slot, "truncated", "ends early"] for slot in slots])

    def k(slot: int, value: object) -> Callable[[dict[str, Any]], Any]:
        return lambda raw: {**raw, "k": [value if i == slot else n for i, n in enumerate(raw["k"])]}

    return {
        "file outside": lambda raw: {
            **raw,
            "files": {**raw["files"], "../x": raw["files"]["area"]},
        },
        "file missing": put(files={}),
        "file of another layer": lambda raw: {
            **raw,
            "files": {**raw["files"], "dino": raw["files"]["area"]},
        },
        "negative size": file(bytes=-1, xxh3="0" * 16),
        "text size": file(bytes="1", xxh3="0" * 16),
        "another shard": put(shard=2),
        "another layer": put(layer="0" * 64),
        "no layer": put(layer="superpixels/sam-tiny"),
        "too many superpixels": k(0, 7),
        "none": k(0, 0),
        "a fraction": k(0, 1.0),
        "a negative count": k(0, -1),
        "superpixels though quarantined": k(2, 3),
        "quarantined though counted": bad(0, 2),
        "good though not counted": bad(),
        "quarantined twice": bad(2, 2),
        "out of order": lambda raw: {**bad(2, 0)(raw), "k": [0, *raw["k"][1:]]},
        "an image of the next shard": bad(2, 4),
        "no reason": put(bad=[[2, "", "ends early"]]),
        "fallback of the next shard": put(fallback=[4]),
        "a negative slot": put(fallback=[-1]),
        "unknown key": put(run="x"),
        "another version": put(schema_version=1),
        "image list short": lambda raw: {**raw, "k": raw["k"][:3]},
        "image list long": lambda raw: {**raw, "k": [*raw["k"], 1]},
        "survivors short": put(survivors={"nms": [1, 1, 0]}),
        "survivor flood": put(survivors={f"s{i}": [1, 1, 0, 1] for i in range(65)}),
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_manifests_are_refused_even_with_a_right_checksum(made: Any, name: str) -> None:
    made.write([0])
    path = made.path / "superpixels/sam-tiny/manifest/0.json"
    path.write_bytes(sealed(hostile()[name](json.loads(path.read_bytes()))))
    with pytest.raises(CacheError, match=r"superpixels/sam-tiny/manifest/0\.json"):
        CacheReader(made.path)
    assert made.missing() == [0, 1, 2]
    lacking = missing_shards(made.path, made.plan, read_committed(made.path, made.plan))
    assert [layer.kind for layer in lacking[0]] == ["superpixels"]


@pytest.mark.parametrize(
    "more", [{"k": [1, 1, 0, 1]}, {"fallback": [0]}, {"survivors": {"nms": [1, 1, 0, 1]}}]
)
def test_only_superpixels_are_counted(made: Any, more: dict[str, Any]) -> None:
    made.write([0])
    path = made.path / "features/tiny-128/manifest/0.json"
    path.write_bytes(sealed(json.loads(path.read_bytes()) | more))
    with pytest.raises(CacheError, match=r"features/tiny-128/manifest/0\.json.*counts superpixels"):
        CacheReader(made.path)


def sealed(raw: dict[str, Any]) -> bytes:
    """With a right checksum, as an attacker would write it."""
    blank = canonical({**raw, "check": ""})
    return canonical({**raw, "check": xxhash.xxh3_64_hexdigest(blank)})


def test_the_helper_seals_as_svp_does(made: Any) -> None:
    made.write([0])
    data = (made.path / "superpixels/sam-tiny/manifest/0.json").read_bytes()
    assert sealed(json.loads(data)) == data


def test_a_resume_redoes_shards_with_lost_or_short_files(made: Any) -> None:
    made.write()
    assert made.missing() == []
    (made.path / "cover/sam-tiny-128/cover/c/0/0/0").unlink()
    path = made.path / "superpixels/sam-tiny/rle/c/2/0"
    path.write_bytes(path.read_bytes()[:-1])
    lacking = missing_shards(made.path, made.plan, read_committed(made.path, made.plan))
    kinds = {shard: [layer.kind for layer in layers] for shard, layers in lacking.items()}
    assert kinds == {0: ["cover"], 2: ["superpixels"]}
    for layer in made.plan.layers:
        assert committed_shards(made.path, layer) == [0, 1, 2]


def test_a_partial_manifest_does_not_count(made: Any) -> None:
    made.write([0])
    cover = made.plan.layer("cover")
    path = made.path / cover.folder / "manifest/0.json"
    path.rename(path.with_name("0.json.aaaaaaaa-1-1.partial"))
    assert committed_shards(made.path, cover) == []
    assert committed_shards(made.path, made.plan.layer("superpixels")) == [0]
    assert made.missing() == [0, 1, 2]


def test_finalize_refuses_an_unfinished_cache(made: Any) -> None:
    made.write([1])
    with pytest.raises(CacheError, match=r"2 of 3 shards are missing \(first \[0, 2\]\)"):
        made.finish()
    assert not list(made.path.rglob("COMPLETE"))
    uncommit(made.path, made.plan.layer("cover"), [1])
    made.write([0, 2])
    with pytest.raises(CacheError, match=r"cover/sam-tiny-128: 1 of 3 .* \(first \[1\]\)"):
        made.finish()
    assert not list(made.path.rglob("COMPLETE")), "all layers or none"


def test_index_and_manifests_tell_the_same(cache: Any) -> None:
    from_index = load_rows(cache.path, cache.plan)
    for layer in cache.plan.layers:
        (cache.path / layer.folder / "COMPLETE").unlink()
    from_manifests = load_rows(cache.path, cache.plan)
    assert from_index.complete and not from_manifests.complete
    assert from_index.status.tolist() == from_manifests.status.tolist()
    assert from_index.k.tolist() == from_manifests.k.tolist()
    assert from_index.bad == from_manifests.bad == {2: ("truncated", "file 2 ends early")}
    assert from_index.fallback == from_manifests.fallback


def test_an_empty_plan_is_complete_at_once(maker: Callable[..., Any]) -> None:
    made = maker(0)
    made.write()
    made.finish()
    reader = CacheReader(made.path)
    assert reader.complete and len(reader) == 0 and reader.quarantined == ()


def test_one_image_and_all_quarantined(maker: Callable[..., Any]) -> None:
    one, none = maker(1), maker(5, bad=range(5))
    for made in (one, none):
        made.write()
        made.finish()
    assert CacheReader(one.path).features(0).shape == (4, 8)
    reader = CacheReader(none.path)
    assert [reader.status(i) for i in range(5)] == ["quarantined"] * 5
    assert none.missing() == []


def test_control_characters_in_a_reason_never_reach_the_file(made: Any, tmp_path: Path) -> None:
    from svp.pipeline.records import Quarantined

    made.rows[1] = Quarantined(8, "bad\x1b[31m", "x\n" * 2000)
    made.write()
    [_, found] = sorted(CacheReader(made.path).quarantined, key=lambda q: -q.image_id)
    assert found.reason == "bad\\x1b[31m"
    assert len(found.detail) <= 500 and "\n" not in found.detail
